"""The experiments: what they change, that they resume where they were cut off, and what they write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench.suites.ablation import main as record  # noqa: E402
from aicl_fast.cli.ablate import ablation_table  # noqa: E402
from aicl_fast.config import Config, load_config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import ConfigError, DataError  # noqa: E402
from aicl_fast.model import TwoBranchNet, TwoBranchOutputs  # noqa: E402
from aicl_fast.train.ablate import (  # noqa: E402
    EXPERIMENTS,
    Ablation,
    Run,
    find_experiment,
    fusion,
    mean_curve,
    run_ablation,
)
from aicl_fast.train.ablate.picture import plot_ablation  # noqa: E402
from aicl_fast.train.ablate.supervision import with_points  # noqa: E402
from aicl_fast.train.losses import aicl_loss  # noqa: E402
from aicl_fast.train.schedules import selection_gamma  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402
from aicl_fast.weights import load_model  # noqa: E402

AddTimes = Callable[[Path], Path]
_VARIANTS: tuple[Callable[[Config], fusion.FusionNet], ...] = (
    fusion.early_early,
    fusion.late_early,
    fusion.late_late,
)


@pytest.fixture
def dataset(tiny_dataset: Path, tiny_config: Config) -> Dataset:
    return Dataset.open(tiny_dataset, tiny_config)


def _text(ablation: Ablation) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(ablation_table(ablation))
    return captured.get()


def test_the_papers_rows_carry_the_papers_numbers() -> None:
    config = load_config("thumos14")
    losses = [arm.paper["average_mAP"] for arm in EXPERIMENTS["losses"].arms(config) if arm.paper]
    assert losses == pytest.approx([0.319, 0.432, 0.448, 0.446, 0.460, 0.464])
    networks = [arm.paper["average_mAP"] for arm in EXPERIMENTS["fusion"].arms(config)]
    assert networks == pytest.approx([0.407, 0.416, 0.457, 0.464])
    accuracy = [tuple(arm.paper.values()) for arm in EXPERIMENTS["accuracy"].arms(config)]
    assert accuracy == [pytest.approx((0.373, 0.657)), pytest.approx((0.603, 0.653))]


def test_each_row_of_the_losses_has_the_terms_it_names() -> None:
    config = load_config("thumos14")
    names = {"weight_agnostic": "L_ca", "weight_contrast": "L_c", "weight_modality": "L_mc"}
    names["weight_consistency"] = "L_ac"
    for arm in EXPERIMENTS["losses"].arms(config):
        loss = config.with_values(arm.changes).loss
        on = {term for field, term in names.items() if getattr(loss, field)}
        named = arm.name.partition(",")[0]
        expected = set(names.values()) if named == "all five" else set(named.split(" + ")) - {"L_a"}
        assert on == expected, arm.name
        assert all(getattr(loss, f) in (0, getattr(config.loss, f)) for f in names)


def test_each_row_of_the_selection_is_another_schedule() -> None:
    config = load_config("demo")
    steps = config.train.steps
    at: dict[str, list[float | None]] = {}
    for arm in EXPERIMENTS["selection"].arms(config):
        changed = config.with_values(arm.changes)
        at[arm.name] = [selection_gamma(step, changed) for step in (1, steps // 3, steps // 2, steps)]
    assert at["released"] == [None] * 4
    assert at["warm-up, a third"] == [1.0, 1.0, None, None]
    assert at["class-aware only"] == [1.0] * 4
    assert at["0.6 throughout"] == [0.6] * 4
    held = at["ramp to 0.6, then held"]
    assert held[0] == pytest.approx(1, abs=0.01)
    assert held[1] == pytest.approx(1 - 0.4 * 2 / 3, abs=0.01)
    assert held[3] == 0.6
    first, second, middle, last = at["warm-up, then a ramp"]
    assert (first, second, last) == (1.0, 1.0, None)
    assert middle == pytest.approx(1 - 0.5 * 2 / 3, abs=0.01)
    ramp = at["ramp throughout"]
    assert ramp == sorted(ramp, reverse=True)  # type: ignore[type-var]
    assert ramp[-1] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("make", _VARIANTS)
def test_variants_give_the_methods_outputs(
    make: Callable[[Config], fusion.FusionNet], tiny_config: Config
) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 32, 11)
    expected: TwoBranchOutputs = TwoBranchNet(tiny_config)(x)
    net = make(tiny_config)
    outputs = net(x)
    assert [value.shape for value in outputs] == [value.shape for value in expected]
    torch.testing.assert_close(outputs.A, outputs.CAS.sum(2).sigmoid())
    torch.testing.assert_close(outputs.A_ca, (outputs.A_rgb + outputs.A_flow) / 2)
    gamma = tiny_config.model.fusion_gamma
    fused = gamma * outputs.CAS.softmax(2) + (1 - gamma) * outputs.A_ca.unsqueeze(2)
    torch.testing.assert_close(outputs.A_score, fused)
    terms = aicl_loss(outputs, torch.eye(3)[:2], tiny_config)
    terms["total"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_late_branches_read_one_stream_each(tiny_config: Config) -> None:
    torch.manual_seed(0)
    net = fusion.late_late(tiny_config)
    x = torch.rand(1, 32, 11)
    other = x.clone()
    other[..., 6:] = 0
    first, second = net(x), net(other)
    assert torch.equal(first.A_rgb, second.A_rgb)
    assert not torch.equal(first.A_flow, second.A_flow)
    # The class-aware logits are a mean, so what the first stream adds does not depend on the second.
    third = torch.rand(1, 32, 11)
    third[..., 6:] = x[..., 6:]
    fourth = third.clone()
    fourth[..., 6:] = 0
    torch.testing.assert_close(first.CAS - second.CAS, net(third).CAS - net(fourth).CAS)


def test_an_early_agnostic_branch_hears_each_loss_once(tiny_config: Config) -> None:
    """Its gradient is that of one stream's loss, though two names stand for its one output."""
    torch.manual_seed(0)
    net = fusion.early_early(tiny_config)
    outputs = net(torch.rand(2, 32, 11))
    assert torch.equal(outputs.A_rgb, outputs.A_flow)
    labels = torch.eye(3)[:2]
    only = {"weight_contrast": 0, "weight_modality": 0, "weight_consistency": 0}
    terms = aicl_loss(outputs, labels, tiny_config.with_values(only))
    weight = net.actionness_agnostic.weight
    (both,) = torch.autograd.grad(terms["total"], weight, retain_graph=True)
    (one,) = torch.autograd.grad(terms["agnostic_rgb"], weight, retain_graph=True)
    torch.testing.assert_close(both, one)
    assert aicl_loss(outputs, labels, tiny_config)["modality"] == 0


def test_variants_need_both_streams(tiny_config: Config) -> None:
    with pytest.raises(ConfigError, match=r"data\.streams: two streams can only be fused"):
        fusion.late_late(tiny_config.with_values({"streams": "rgb"}))


def test_an_experiment_from_runs_to_picture(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str, int, int]] = []
    ablation = run_ablation(
        dataset,
        EXPERIMENTS["accuracy"],
        tmp_path / "out",
        seeds=2,
        progress=lambda *event: seen.append(event[:5]),
    )
    assert ablation.seeds == (1, 2)
    assert seen[-1] == (4, 4, "AICL (all five), seed 2", 12, 12)
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [arm["name"] for arm in document["arms"]] == ["baseline (L_a + L_ca)", "AICL (all five)"]
    for arm in document["arms"]:
        values = [run["accuracy_A_bin"] for run in arm["runs"]]
        assert [run["seed"] for run in arm["runs"]] == [1, 2]
        assert arm["mean"]["accuracy_A_bin"] == pytest.approx(np.mean(values))
        assert arm["spread"]["accuracy_A_bin"] == pytest.approx(np.std(values, ddof=1))
        assert "paper" not in arm
    # A run is what the trainer gives with these settings.
    config = dataset.config.with_values({"train.seed": 2})
    alone = train(Dataset.open(dataset.root, config))
    again = document["arms"][1]["runs"][1]
    assert again["average_mAP"] == alone.localization.average
    assert again["accuracy_A_ca_bin"] == alone.accuracy.agnostic
    record(["--json", str(tmp_path / "record.json"), str(tmp_path / "out")])
    recorded = json.loads((tmp_path / "record.json").read_text())
    assert recorded["rows"] == document["arms"]
    assert (recorded["suite"], recorded["preset"]) == ("ablation, accuracy", "demo")
    plot_ablation(ablation, tmp_path / "out" / "accuracy.png")
    assert (tmp_path / "out" / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    text = _text(ablation)
    assert "baseline (L_a + L_ca)" in text
    assert "the paper's" not in text


def test_finished_runs_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    trained: list[str] = []

    def note(run: int, runs: int, name: str, step: int, steps: int, loss: float) -> None:
        if name not in trained:
            trained.append(name)
        if len(trained) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ablation(dataset, EXPERIMENTS["fusion"], tmp_path / "out", seeds=1, progress=note)
    assert not (tmp_path / "out" / "ablation.json").exists()
    kept = sorted(path.name for path in (tmp_path / "out" / "runs").glob("*.json"))
    assert kept == ["early-early-seed1.json", "late-early-seed1.json"]
    before = [(tmp_path / "out" / "runs" / name).read_bytes() for name in kept]

    trained.clear()
    ablation = run_ablation(
        dataset,
        EXPERIMENTS["fusion"],
        tmp_path / "out",
        seeds=1,
        progress=lambda run, runs, name, *_: trained.append(name),
    )
    assert set(trained) == {"late / late, seed 1", "early / late (the method), seed 1"}
    assert before == [(tmp_path / "out" / "runs" / name).read_bytes() for name in kept]
    assert len(ablation.runs) == 4
    fresh = run_ablation(dataset, EXPERIMENTS["fusion"], tmp_path / "fresh", seeds=1)
    assert fresh.to_dict() == ablation.to_dict()
    # One more seed trains the new ones alone; none trains nothing.
    trained.clear()
    more = run_ablation(
        dataset,
        EXPERIMENTS["fusion"],
        tmp_path / "out",
        seeds=2,
        progress=lambda run, runs, name, *_: trained.append(name),
    )
    assert all(name.endswith("seed 2") for name in trained)
    assert more.seeds == (1, 2)


def test_runs_of_other_settings_are_not_mixed_in(
    dataset: Dataset, tiny_config: Config, tmp_path: Path
) -> None:
    run_ablation(dataset, EXPERIMENTS["accuracy"], tmp_path / "out", seeds=1)
    other = Dataset.open(dataset.root, dataset.config.with_values({"train.lr": 0.01}))
    with pytest.raises(DataError, match=r"seed1\.json: .*other settings: train\.lr differ"):
        run_ablation(other, EXPERIMENTS["accuracy"], tmp_path / "out", seeds=1)
    fewer = Dataset(
        dataset.root,
        dataset.ground_truth,
        {**dataset.videos, "train": dataset.videos["train"][1:]},
        dataset.config,
    )
    with pytest.raises(DataError, match="trained on other data"):
        run_ablation(fewer, EXPERIMENTS["accuracy"], tmp_path / "out", seeds=1)
    record = tmp_path / "out" / "runs" / "aicl-all-five-seed1.json"
    record.write_text("{}")
    with pytest.raises(DataError, match="the record of a run cannot be read"):
        run_ablation(dataset, EXPERIMENTS["accuracy"], tmp_path / "out", seeds=1)


def test_runs_of_a_ramp_in_steps_are_those_of_one_over_all_of_them(dataset: Dataset, tmp_path: Path) -> None:
    def experiment(ramp_steps: object) -> Dataset:
        config = dataset.config.with_values({"train.ramp_steps": ramp_steps, "train.warmup_steps": 2})
        return replace(dataset, config=config.with_values({"train.steps": 6}))

    trained: list[str] = []

    def ablate(ramp_steps: object) -> None:
        run_ablation(
            experiment(ramp_steps),
            EXPERIMENTS["consistency"],
            tmp_path / "out",
            seeds=1,
            progress=lambda run, runs, name, *_: trained.append(name),
        )

    ablate(4)
    assert trained
    trained.clear()
    ablate("all")
    assert not trained
    with pytest.raises(DataError, match=r"other settings: train\.ramp_steps differ"):
        ablate(3)


def test_left_out_videos_are_recorded_and_said(
    tiny_dataset: Path, tiny_config: Config, tmp_path: Path
) -> None:
    whole = _text(_made_up("thumos14", synthetic=False))
    assert "incomplete" not in whole
    for video in ("train/rgb/train_2", "test/flow/test_1"):
        (tiny_dataset / "features" / f"{video}.npy").unlink()
    partial = Dataset.open(tiny_dataset, tiny_config, allow_missing=True)
    ablation = run_ablation(partial, EXPERIMENTS["consistency"], tmp_path / "out", seeds=1)
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert document["missing"] == ["train_2", "test_1"]
    title, note, *_ = _text(ablation).splitlines()
    assert "on an incomplete data set" in title
    assert "5 train and 2 test videos, 2 more skipped: no features" in note
    plot_ablation(ablation, tmp_path / "consistency.svg")
    assert "incomplete data set" in (tmp_path / "consistency.svg").read_text()
    # A record of it keeps the names.
    record([str(tmp_path / "out"), "--json", str(tmp_path / "recorded.json")])
    assert json.loads((tmp_path / "recorded.json").read_text())["missing"] == ["train_2", "test_1"]


def test_consistent_segments_over_training(dataset: Dataset, tmp_path: Path) -> None:
    ablation = run_ablation(dataset, EXPERIMENTS["consistency"], tmp_path / "out", seeds=2)
    steps, mean, low, high = mean_curve(ablation.of(ablation.arms[0]))
    assert steps == [1, 10, 12]
    assert all(0 <= a <= b <= c <= 32 for a, b, c in zip(low, mean, high, strict=True))
    plot_ablation(ablation, tmp_path / "consistency.svg")
    assert "consistent segments a video" in (tmp_path / "consistency.svg").read_text()


def test_the_selection_is_evaluated_over_training(dataset: Dataset, tmp_path: Path) -> None:
    ablation = run_ablation(dataset, EXPERIMENTS["selection"], tmp_path / "out", seeds=1)
    for run in ablation.runs:
        assert [step for step, _ in run.curve] == list(range(1, 13))
        assert run.curve[-1][1] == pytest.approx(run.measured["average_mAP"])
    plot_ablation(ablation, tmp_path / "selection.png")


def _made_up(preset: str, synthetic: bool) -> Ablation:
    config = load_config(preset)
    experiment = EXPERIMENTS["accuracy"]
    arms = experiment.arms(config)
    values = {"accuracy_A_bin": 0.5, "accuracy_A_ca_bin": 0.6, "average_mAP": 0.4, "consistent": 0.7}
    runs = tuple(Run(arm.name, seed, values) for arm in arms for seed in (1, 2))
    return Ablation(experiment, arms, runs, config, "made up", synthetic)


@pytest.mark.parametrize(
    ("preset", "synthetic", "beside"),
    [("thumos14", False, True), ("thumos14", True, False), ("activitynet12", False, False)],
)
def test_the_papers_numbers_are_beside_where_they_belong(
    preset: str, synthetic: bool, beside: bool, tmp_path: Path
) -> None:
    ablation = _made_up(preset, synthetic)
    text = _text(ablation)
    assert ("the paper's" in text) == beside
    assert ("37.3" in text) == beside
    assert ("paper" in json.dumps(ablation.to_dict()["arms"])) == beside
    plot_ablation(ablation, tmp_path / "accuracy.svg")
    assert ("diamonds: the paper" in (tmp_path / "accuracy.svg").read_text()) == beside


def test_synthetic_data_says_so(tmp_path: Path) -> None:
    from aicl_fast.train.synthetic import SyntheticConfig, write_synthetic

    small = SyntheticConfig(train_videos=3, test_videos=3, classes=3, width=8, longest=60.0)
    write_synthetic(tmp_path / "data", small)
    values = ["segments=32", "embedding_width=8", "steps=2"]
    config = load_config(file=tmp_path / "data" / "settings.toml", overrides=values)
    dataset = Dataset.open(tmp_path / "data", config)
    ablation = run_ablation(dataset, EXPERIMENTS["accuracy"], tmp_path / "out", seeds=1)
    assert ablation.synthetic
    assert "synthetic data" in _text(ablation)
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["synthetic"] is True


def test_an_unknown_experiment() -> None:
    with pytest.raises(ConfigError, match=r"there is no 'loses'\. Did you mean losses"):
        find_experiment("loses")


def test_the_command(run: Callable[..., str], tiny_dataset: Path, tmp_path: Path) -> None:
    values = ("segments=32", "rgb_width=6", "flow_width=5", "embedding_width=8", "steps=2")
    options = [part for value in values for part in ("--set", value)]
    command = ("ablate", "losses", "-d", tiny_dataset)
    text = run(*command, "-p", "demo", "--seeds", 1, "-o", "out", *options)
    assert "L_a + L_ca + L_c + L_mc" in text
    assert (tmp_path / "out" / "losses.png").is_file()
    assert not list((tmp_path / "out" / "runs").rglob("checkpoints"))
    own = [*options, "--set", "batch_size=4", "--set", "warmup_steps=1"]
    text = run(*command, "--seeds", 1, "-o", "own", *own)
    assert "settings: " in text.partition("L_a")[0], text
    assert "--data: the preset thumos14 needs" in run("ablate", "losses", "-p", "thumos14", expect=2)


def test_points_are_simulated_from_times(
    tiny_dataset: Path, tiny_config: Config, add_times: AddTimes
) -> None:
    data = Dataset.open(add_times(tiny_dataset), tiny_config)
    before = dict(data.ground_truth.videos)
    half = with_points(0.5)(data, 3)
    counts = {name: int(half.ground_truth.videos[name].points.sum()) for name in data.videos["train"]}
    assert sorted(counts.values()) == [0, 0, 0, 6, 6, 6]
    for name, count in counts.items():
        video = half.ground_truth.videos[name]
        assert video.classes == before[name].classes
        if count:
            times = video.segments[:, 0]
            assert ((before[name].segments[:, 0] <= times) & (times <= before[name].segments[:, 1])).all()
        else:
            assert not video.timed.any()
    for name in data.videos["test"]:
        assert half.ground_truth.videos[name] is before[name]
    again = with_points(0.5)(data, 3).ground_truth.videos
    assert all(
        np.array_equal(again[name].segments, half.ground_truth.videos[name].segments) for name in again
    )
    with pytest.raises(DataError, match="nothing to simulate points from"):
        with_points(0.5)(with_points(1.0)(data, 3), 3)


def test_each_row_of_the_supervision_knows_something_else(
    tiny_dataset: Path,
    tiny_config: Config,
    add_times: AddTimes,
    tmp_path: Path,
    same_weights: Callable[..., bool],
) -> None:
    changes = {"steps": 4, "teacher_start": 0.25, "teacher_every": 2}
    data = Dataset.open(add_times(tiny_dataset), tiny_config.with_values(changes))
    ablation = run_ablation(data, EXPERIMENTS["supervision"], tmp_path / "out", seeds=1)
    assert len(ablation.runs) == len(ablation.arms) == 6
    nets = [load_model(path)[0] for path in sorted((tmp_path / "out/runs").glob("*/model.safetensors"))]
    assert len(nets) == 6
    assert not any(same_weights(*pair) for pair in itertools.combinations(nets, 2))
