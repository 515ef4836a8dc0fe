"""What is taken to be true of segments: of times, of points, of a teacher's detections; and its loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.data.detections import Detections  # noqa: E402
from aicl_fast.data.scores import Scores  # noqa: E402
from aicl_fast.errors import AiclWarning, DataError, ModelError  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train.losses import aicl_loss  # noqa: E402
from aicl_fast.train.sampling import Videos  # noqa: E402
from aicl_fast.train.segment_labels import (  # noqa: E402
    Points,
    SegmentLabels,
    at_segments,
    of_detections,
    of_points,
    of_times,
    points_of,
)
from aicl_fast.train.targets import Targets  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402

CLASSES = ("A", "B", "C")


def _annotation(*rows: tuple[str, float, float], duration: float | None = None) -> VideoAnnotation:
    segments = np.array([row[1:] for row in rows], np.float64).reshape(-1, 2)
    return VideoAnnotation("train", tuple(row[0] for row in rows), segments, duration)


def _rows(labels: SegmentLabels) -> list[tuple[int, int, int]]:
    return [(int(c), int(a), int(b)) for c, (a, b) in zip(labels.classes, labels.spans, strict=True)]


def test_times_mark_the_segments_whose_middle_they_hold() -> None:
    found = of_times(_annotation(("B", 2.0, 5.0), ("A", 1.4, 1.5), ("Ambiguous", 7.0, 9.0)), CLASSES, 10, 1.0)
    assert _rows(found) == [(1, 2, 4), (0, 1, 1)]
    assert found.background.tolist() == [1, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    target, weight = found.at(np.arange(10), 3)
    assert target[:, 1].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert target[:, 0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert weight.tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0, 1]


def test_times_after_the_features_end_are_left_out() -> None:
    assert _rows(of_times(_annotation(("A", 20.0, 30.0), ("A", 8.0, 30.0)), CLASSES, 10, 1.0)) == [(0, 8, 9)]


def test_a_span_between_the_drawn_segments_takes_the_nearest() -> None:
    labels = SegmentLabels(np.array([2]), np.array([[4, 5]]), np.ones(1, np.float32), np.zeros(9, np.float32))
    target, weight = labels.at(np.array([0, 3, 8]), 3)
    assert target[:, 2].tolist() == [0, 1, 0]
    assert weight.tolist() == [0, 1, 0]


def test_spans_that_overlap_keep_both_classes_and_the_higher_weight() -> None:
    weights = np.array([0.5, 0.9], np.float32)
    labels = SegmentLabels(np.array([0, 1]), np.array([[0, 2], [2, 3]]), weights, np.ones(5, np.float32))
    target, weight = labels.at(np.arange(5), 3)
    assert target[2].tolist() == [1, 1, 0]
    assert weight.tolist() == pytest.approx([0.5, 0.5, 0.9, 0.9, 1.0])


def test_points_are_instances_without_length() -> None:
    annotation = _annotation(
        ("B", 6.5, 6.5), ("A", 2.0, 2.0), ("C", 0.0, 0.0), ("A", 1.0, 3.0), ("D", 5.0, 5.0)
    )
    assert annotation.points.tolist() == [True, True, False, False, True]
    points = points_of(annotation, CLASSES, 10, 1.0)
    assert (points.places.tolist(), points.classes.tolist()) == ([2, 6], [0, 1])
    assert not points.complete  # C and D have no point among the model's classes
    assert points_of(_annotation(("A", 2.0, 2.0)), CLASSES, 10, 1.0).complete


def test_points_without_a_teacher_are_their_segments_alone() -> None:
    found = of_points(Points(np.array([2, 7]), np.array([0, 1]), 10, True), None)
    assert _rows(found) == [(0, 2, 2), (1, 7, 7)]
    assert not found.background.any()


def _curve(values: list[float]) -> Any:
    scores = np.zeros((len(values), 3))
    scores[:, 0] = values
    return scores


def test_a_point_grows_to_where_the_score_falls() -> None:
    scores = _curve([0.1, 0.5, 0.9, 1.0, 0.9, 0.1, 0.02, 0.0, 0.9, 0.9])
    found = of_points(Points(np.array([3]), np.array([0]), 10, True), scores)
    assert _rows(found) == [(0, 2, 4)]
    assert found.background.tolist() == [1, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert not of_points(Points(np.array([3]), np.array([0]), 10, False), scores).background.any()


def test_points_share_what_is_between_them() -> None:
    flat = _curve([1.0] * 10)
    found = of_points(Points(np.array([2, 6]), np.array([0, 0]), 10, True), flat)
    assert _rows(found) == [(0, 0, 4), (0, 5, 9)]
    # Between two points the lowest segment is background, unless it is in a span.
    assert found.background.sum() == 1
    _, weight = found.at(np.arange(10), 3)
    assert weight.tolist() == [1] * 10
    dip = _curve([1.0, 1.0, 1.0, 0.9, 0.4, 0.9, 1.0, 1.0, 1.0, 1.0])
    found = of_points(Points(np.array([2, 6]), np.array([0, 0]), 10, True), dip)
    assert _rows(found) == [(0, 0, 3), (0, 5, 9)]
    assert found.background.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_points_in_one_segment_stay_there() -> None:
    found = of_points(Points(np.array([4, 4]), np.array([0, 1]), 6, True), np.ones((6, 3)))
    assert _rows(found) == [(0, 0, 4), (1, 4, 5)]


def test_good_detections_of_the_classes_that_are_there_become_spans() -> None:
    found = Detections(
        np.array(["A", "A", "A", "B"]),
        np.array([0.8, 0.5, 0.1, 0.9]),
        np.array([[1.0, 3.0], [5.0, 6.0], [7.0, 8.0], [0.0, 10.0]]),
    )
    labels = of_detections(found, ["A"], CLASSES, 10, 1.0)
    assert _rows(labels) == [(0, 1, 2), (0, 5, 5)]
    assert labels.weights.tolist() == pytest.approx([1.0, 0.625])
    assert labels.background.tolist() == [1, 0, 0, 1, 1, 0, 1, 0, 1, 1]
    # Where a class is not seen, nothing is background.
    assert not of_detections(found, ["A", "C"], CLASSES, 10, 1.0).background.any()


def test_scores_are_interpolated_to_a_videos_own_segments() -> None:
    fused = np.array([[0.0], [1.0]], np.float32)
    scores = Scores(fused, np.ones(1, np.float32), fused[:, 0], fused[:, 0], 4, 25.0, 16, ("A",))
    assert at_segments(scores)[:, 0].tolist() == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_the_loss_of_segments_by_hand(tiny_config: Config) -> None:
    torch.manual_seed(0)
    net = TwoBranchNet(tiny_config)
    features = torch.rand(2, tiny_config.data.segments, tiny_config.data.input_width)
    outputs, labels = net(features), torch.eye(3)[:2]
    target, weight = torch.zeros_like(outputs.CAS), torch.zeros_like(outputs.A)
    target[0, 1, 2] = target[0, 2, 0] = target[0, 2, 1] = 1
    weight[0, 1], weight[0, 2], weight[0, 5] = 1.0, 0.5, 0.25
    terms = aicl_loss(outputs, labels, tiny_config, segments=(target, weight))
    log = outputs.CAS[0].log_softmax(-1)
    classes = -(1.0 * log[1, 2] + 0.5 * (log[2, 0] + log[2, 1]) / 2) / 1.5
    assert terms["segment_class"].item() == pytest.approx(classes.item() / 2, rel=1e-5)
    actionness = sum(
        -(1.0 * a[0, 1].log() + 0.5 * a[0, 2].log()) / 1.5 - (1 - a[0, 5]).log()
        for a in (outputs.A_rgb, outputs.A_flow)
    )
    assert terms["segment_actionness"].item() == pytest.approx(actionness.item() / 2, rel=1e-5)
    without = aicl_loss(outputs, labels, tiny_config)
    added = 0.3 * terms["segment_class"] + terms["segment_actionness"]
    assert (terms["total"] - without["total"]).item() == pytest.approx(added.item(), rel=1e-4)
    assert without["segment_class"] == without["segment_actionness"] == 0


SETTINGS: dict[str, dict[str, Any]] = {
    "points": {"supervision": "points"},
    "times": {"supervision": "times"},
    "self-training": {"self_training": True},
    "both": {"supervision": "points", "self_training": True},
}


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_training_uses_and_resumes_them(
    kind: str,
    add_points: Callable[[int], None],
    open_tiny: Callable[..., Dataset],
    tmp_path: Path,
    same_weights: Callable[..., bool],
) -> None:
    if kind in ("points", "both"):
        add_points(6 if kind == "points" else 2)
    common = {"steps": 9, "teacher_start": 0.3, "teacher_every": 2, "save_every": 1, "warmup_steps": 0}
    dataset = open_tiny(**common, **SETTINGS[kind])
    whole = train(dataset, tmp_path / "whole")
    assert not same_weights(whole.net, train(open_tiny(**common)).net)

    for ending in (4, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aicl_fast.train.trainer.LOG_EVERY", 1)

            def ends(step: int, steps: int, loss: float, at: int = ending) -> None:
                if step == at:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                train(dataset, tmp_path / str(ending), training=ends)
        again = train(dataset, tmp_path / str(ending), resume=True)
        assert again.started_at == ending - 1
        assert same_weights(again.net, whole.net)


def test_the_teacher_s_schedule_is_over_all_steps(
    add_points: Callable[[int], None], open_tiny: Callable[..., Dataset], tmp_path: Path
) -> None:
    add_points(2)
    common = {"warmup_steps": 0, "supervision": "points", "self_training": True}
    train(open_tiny(steps=2, **common), tmp_path / "run")
    with pytest.raises(ModelError, match=r"steps was 2, now 4.*A schedule runs over all steps"):
        train(open_tiny(steps=4, **common), tmp_path / "run", resume=True)
    dataset = open_tiny(steps=1000, **common, teacher_start=0.25)
    targets = Targets(dataset, Videos(dataset, "train"))
    assert [step for step in range(1, 1001) if targets.due(step)] == [*range(251, 1001, 100)]
    net = TwoBranchNet(dataset.config)
    for step, labelled in ((500, 2), (501, 6)):
        targets.label(net, step)
        found = targets.of(range(6), [targets.videos.sample(index) for index in range(6)])
        assert found is not None
        assert int(found[1].any(dim=1).sum()) == labelled


def test_other_points_are_other_data(
    tiny_dataset: Path,
    add_points: Callable[[int], None],
    open_tiny: Callable[..., Dataset],
    tmp_path: Path,
) -> None:
    add_points(6)
    train(open_tiny(supervision="points", steps=2), tmp_path / "run")
    truth = json.loads((tiny_dataset / "gt.json").read_text())
    truth["database"]["train_0"]["annotations"][0]["segment"] = [2.0, 2.0]
    (tiny_dataset / "gt.json").write_text(json.dumps(truth))
    with pytest.raises(ModelError, match="their times differ"):
        train(open_tiny(supervision="points", steps=2), tmp_path / "run", resume=True)


def test_without_points_nothing_changes(
    open_tiny: Callable[..., Dataset], same_weights: Callable[..., bool]
) -> None:
    plain = train(open_tiny(steps=3))
    assert same_weights(train(open_tiny(steps=3, supervision="points")).net, plain.net)


def test_two_classes_in_one_segment_are_noted(tiny_dataset: Path, open_tiny: Callable[..., Dataset]) -> None:
    truth = json.loads((tiny_dataset / "gt.json").read_text())
    points = [{"label": label, "segment": [2.0, 2.0]} for label in sorted(GroundTruth.load(
        tiny_dataset / "gt.json").classes)[:2]]  # fmt: skip
    truth["database"]["train_1"]["annotations"] = points
    (tiny_dataset / "gt.json").write_text(json.dumps(truth))
    dataset = open_tiny(supervision="points")
    with pytest.warns(AiclWarning, match=r"different classes lie in one segment, .* in train_1: both count"):
        Targets(dataset, Videos(dataset, "train"))


def test_a_point_after_the_end(
    tiny_dataset: Path, add_points: Callable[[int], None], open_tiny: Callable[..., Dataset]
) -> None:
    add_points(1)
    text = (tiny_dataset / "gt.json").read_text()
    for time, late in ((7.25, False), (7.5, True)):  # 20 segments of 0.32 s, and a second
        (tiny_dataset / "gt.json").write_text(text.replace("5.5", str(time)))
        dataset = open_tiny(supervision="points")
        if late:
            with pytest.raises(
                DataError, match=r"'train_0' has a point at 7\.5 s, and its features end at 6\.4 s"
            ):
                Targets(dataset, Videos(dataset, "train"))
        else:
            Targets(dataset, Videos(dataset, "train"))


def test_times_that_are_not_there(
    add_points: Callable[[int], None], open_tiny: Callable[..., Dataset]
) -> None:
    add_points(6)
    dataset = open_tiny(supervision="times")
    with pytest.raises(DataError, match="supervision is times, and there is no training video"):
        Targets(dataset, Videos(dataset, "train"))
