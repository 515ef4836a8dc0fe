"""Training: from a folder to weights that load, with its logs, and what stops it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import AiclError, DataError, ModelError, UnavailableError  # noqa: E402
from aicl_fast.train.localize import localize  # noqa: E402
from aicl_fast.train.sampling import BatchOrder, Videos  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402
from aicl_fast.weights import load_model, save_model  # noqa: E402


def test_it_writes_weights_and_logs(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    dataset = open_tiny()
    result = train(dataset, tmp_path / "run", training=lambda *event: seen.append(event))
    assert [step for step, _, _ in seen] == [1, 10, 12]
    assert result.step == 12
    assert (tmp_path / "run" / "tensorboard").is_dir()
    net, config = load_model(tmp_path / "run" / "model.safetensors")
    assert replace(config, data=dataset.config.data) == dataset.config
    lengths = {"typical_segments": 52, "longest_segments": 85}  # of the six training videos
    assert config.data == replace(dataset.config.data, **lengths)
    for name, value in result.net.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    # The input statistics are those of the training videos, every segment counted.
    stacked = np.concatenate([dataset.features("train", name) for name in dataset.videos["train"]])
    np.testing.assert_allclose(net.input_mean.numpy(), stacked.mean(0), rtol=1e-5)
    np.testing.assert_allclose(net.input_scale.numpy(), 1 / stacked.std(0), rtol=1e-4)


def test_the_seed_decides(open_tiny: Callable[..., Dataset]) -> None:
    def weights(seed: int) -> torch.Tensor:
        return train(open_tiny(seed=seed)).net.embed.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_training_learns(open_tiny: Callable[..., Dataset]) -> None:
    losses: list[float] = []
    dataset = open_tiny(steps=150, lr=1e-2, warmup_steps=0)
    train(dataset, training=lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_keeping_the_best_on_test_is_an_option(open_tiny: Callable[..., Dataset]) -> None:
    result = train(open_tiny(keep="test", eval_every=3, lr=0.05))
    assert [step for step, _ in result.history] == [3, 6, 9, 12]
    assert result.localization.average == max(average for _, average in result.history)
    assert dict(result.history)[result.step] == result.localization.average


def test_a_diverging_loss_stops_with_advice(
    open_tiny: Callable[..., Dataset], tiny_dataset: Path, tmp_path: Path
) -> None:
    for path in (tiny_dataset / "features/train/rgb").iterdir():
        np.save(path, np.full_like(np.load(path), np.finfo(np.float32).max))
    dataset = open_tiny(standardize_input=False)
    with pytest.raises(AiclError, match=r"the loss became .* at step 1\. Lower train\.lr"):
        train(dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_cuda_without_cuda(open_tiny: Callable[..., Dataset]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UnavailableError, match="finds no CUDA device"):
        train(open_tiny(), device="cuda")


def test_torch_and_the_exported_file_detect_the_same(
    open_tiny: Callable[..., Dataset], tiny_model: Path
) -> None:
    from aicl_fast import Detector

    dataset = open_tiny()
    net, config = load_model(tiny_model)
    videos = Videos(dataset, "test")
    _, ours = localize(net, videos, config)
    detector = Detector(tiny_model.with_suffix(".onnx"))
    for name in videos.names:
        other = detector(dataset.features("test", name), video=name)
        np.testing.assert_array_equal(other.labels, ours[name].labels)
        np.testing.assert_allclose(other.scores, ours[name].scores, atol=1e-5)
        np.testing.assert_allclose(other.segments, ours[name].segments, atol=1e-9)


def test_batches_cover_every_epoch() -> None:
    order = BatchOrder(10, 4, np.random.default_rng(0))
    epochs = [[order.next() for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(number for batch in epoch for number in batch) == list(range(10))
    assert epochs[0] != epochs[1]


def test_a_batch_order_goes_on_from_its_stored_state() -> None:
    order = BatchOrder(10, 4, np.random.default_rng(0))
    order.next()
    stored = json.loads(json.dumps(order.state()))
    expected = [order.next() for _ in range(7)]
    other = BatchOrder(10, 4, np.random.default_rng(5))
    other.restore(stored)
    assert [other.next() for _ in range(7)] == expected


def test_weights_that_are_not_ours(tmp_path: Path, tiny_model: Path, tiny_config: Config) -> None:
    from safetensors.torch import save_file

    with pytest.raises(DataError, match="does not exist"):
        load_model(tmp_path / "none.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="is not an aicl_fast model"):
        load_model(tmp_path / "foreign.safetensors")
    content = tiny_model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"cut\.safetensors: is not a safetensors file, or is truncated"):
        load_model(tmp_path / "cut.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickled.pkl")
    with pytest.raises(ModelError, match="Checkpoints of other programs are pickled"):
        load_model(tmp_path / "pickled.pkl")
    net, _ = load_model(tiny_model)
    save_model(tmp_path / "other.safetensors", net, tiny_config.with_values({"embedding_width": 16}))
    with pytest.raises(ModelError, match="its weights do not fit its settings"):
        load_model(tmp_path / "other.safetensors")


def _only_labels(folder: Path, *, tests: bool) -> None:
    """Leave labels without times, and the test videos only if they are wanted."""
    truth = json.loads((folder / "gt.json").read_text())
    for name, video in list(truth["database"].items()):
        video["annotations"] = [{"label": video["annotations"][0]["label"], "segment": [0, 0]}]
        if name.startswith("test") and not tests:
            del truth["database"][name]
    (folder / "gt.json").write_text(json.dumps(truth))
    if not tests:
        (folder / "split_test.txt").unlink()


def test_labels_alone_are_enough(
    tiny_dataset: Path, tiny_config: Config, tmp_path: Path, same_weights: Callable[..., bool]
) -> None:
    plain = train(Dataset.open(tiny_dataset, tiny_config))
    _only_labels(tiny_dataset, tests=True)
    labelled = train(Dataset.open(tiny_dataset, tiny_config))
    assert labelled.measured is not None
    assert labelled.measured.localization is None
    assert labelled.measured.classification == plain.measured.classification  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no test video has times"):
        _ = labelled.localization
    _only_labels(tiny_dataset, tests=False)
    alone = train(Dataset.open(tiny_dataset, tiny_config, may_lack_test=True), tmp_path / "run")
    assert alone.measured is None
    for other in (labelled, alone):
        assert same_weights(other.net, plain.net)
    again = train(Dataset.open(tiny_dataset, tiny_config, may_lack_test=True), tmp_path / "run", resume=True)
    assert same_weights(again.net, plain.net)


@pytest.mark.parametrize("keep", ["val", "test"])
def test_without_times_no_map_can_choose(tiny_dataset: Path, tiny_config: Config, keep: str) -> None:
    _only_labels(tiny_dataset, tests=True)
    config = tiny_config.with_values({"keep": keep, "eval_every": 2})
    with pytest.raises(DataError, match=f"train.keep: {keep} chooses the weights by mAP, and not one of"):
        train(Dataset.open(tiny_dataset, config))
