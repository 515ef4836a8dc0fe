"""What is measured with: trained models and recordings, made once and kept, so that speed has its accuracy.

Two sizes. *demo* is the model of `make demo` on real wrist-watch recordings: it is small, so what it shows is
what a call costs beside the arithmetic. *thumos14* has THUMOS14's size (T 750, 2 x 1024 features, 20 classes)
and is trained here for half a minute on synthetic recordings of that shape: its mAP says whether a precision
finds the same actions, and nothing about real videos.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aicl_fast.bench.harness.machine import last_level_cache, sets_beyond_cache
from aicl_fast.config import Config, load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Array, Floats
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError, DataError
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.files import require_file
from aicl_fast.metadata import ModelInfo
from aicl_fast.train.synthetic import SETTINGS, SyntheticConfig, write_synthetic
from aicl_fast.train.trainer import train
from aicl_fast.train.watch import prepare_watch
from aicl_fast.weights import load_model, save_model, weights_hash

FOLDER = Path("runs/bench")
"""Where models are kept between runs."""
DEMO = Path("runs/demo")
"""Where `make demo` leaves its own, which is taken if it is there."""
SIZED = SyntheticConfig(train_videos=40, test_videos=20, strength=1.5, background=0.3)
_SIZED_MB = 240
_SIZED_TRAINING = ("steps=40", "batch_size=4", "lr=3e-4", "eval_every=40")

Recording = tuple[Array, Array]


@dataclass(frozen=True)
class Subject:
    """A trained model and what to run it on.

    Attributes:
        name: ``demo``, ``thumos14`` or the file's.
        weights: ``model.safetensors``.
        recordings: both streams of each, in memory, of different lengths.
        dataset: what mAP is measured on; None measures none.
        exported: the file that is measured beside the weights, and what it says of itself; None measures
            every format that they can be exported to.
    """

    name: str
    weights: Path
    recordings: tuple[Recording, ...]
    dataset: Dataset | None = None
    exported: tuple[Path, ModelInfo] | None = None

    @property
    def config(self) -> Config:
        """The model's settings; an exported file may have been given another T."""
        return load_model(self.weights)[1] if self.exported is None else self.exported[1].config

    def mean_average(self, detector: Detector) -> float | None:
        """Average mAP of a file of this model on the test recordings, through the whole pipeline."""
        if self.dataset is None:
            return None
        names = self.dataset.videos["test"]
        found: dict[str, Detections] = {}
        for start in range(0, len(names), 8):
            part = slice(start, start + 8)
            boxes = detector.batch(self.recordings[part], videos=names[part])
            found.update(zip(names[part], boxes, strict=True))
        tious = detector.config.evaluate.tious
        return float(mean_average_precision(self.dataset.truth("test"), found, tious).average)

    def batches(self, size: int) -> list[list[Recording]]:
        """Batches of recordings, together beyond the caches or all there are, each recording in its turn."""
        data = self.config.data
        bytes_each = size * data.segments * data.input_width * 4
        count = sets_beyond_cache(bytes_each, last_level_cache(), most=len(self.recordings))
        every = len(self.recordings)
        return [[self.recordings[(b * size + i) % every] for i in range(size)] for b in range(count)]


def demo_subject(folder: Path = FOLDER, device: str = "cpu") -> Subject:
    """The demo's model and test recordings.

    Raises:
        UnavailableError: it has to be trained, and the demo's recordings (seglearn) are not installed.
    """
    config = load_config("demo")
    kept = DEMO / "model.safetensors"
    if kept.is_file() and (DEMO / "data" / "gt.json").is_file():
        return _subject("demo", kept, Dataset.open(DEMO / "data", config))
    root = folder / "demo"
    dataset = Dataset.open(prepare_watch(root / "data"), config)
    return _subject("demo", _trained(root, dataset, device), dataset)


def thumos_subject(folder: Path = FOLDER, device: str = "cpu") -> Subject:
    """A trained model of THUMOS14's size and synthetic test recordings."""
    root = folder / "thumos14"
    if not (root / "data" / SETTINGS).is_file():
        sys.stderr.write(f"writing synthetic recordings to {root / 'data'}, once: some {_SIZED_MB} MB\n")
    write_synthetic(root / "data", SIZED)
    config = load_config("thumos14", file=root / "data" / SETTINGS, overrides=list(_SIZED_TRAINING))
    dataset = Dataset.open(root / "data", config)
    return _subject("thumos14", _trained(root, dataset, device), dataset)


def given_subject(
    model: Path, data: Path | None = None, weights: Path | None = None, segments: int = 900
) -> Subject:
    """A model file of one's own, with a data set or, without one, random recordings.

    Args:
        model: weights, of which every format is measured; or an exported file, which is measured itself.
        data: data set folder.
        weights: of an exported file, for the baseline; None takes the ``.safetensors`` of its name beside it.
        segments: of a random recording.
    Raises:
        DataError: no such file; no weights beside it; other weights than it was exported from.
        AiclError: it cannot be opened here.
    """
    require_file(model, "model file")
    exported = None
    if model.suffix == ".safetensors":
        weights = model
        config = load_model(weights)[1]
    else:
        weights = model.with_suffix(".safetensors") if weights is None else weights
        if not weights.is_file():
            raise DataError(
                f"{weights}: the baseline runs the weights that {model.name} was exported from. Name them "
                "with --weights."
            )
        with Detector(model) as detector:
            info = detector.engine.info
        net, own = load_model(weights)
        if info.weights and info.weights != weights_hash(net.state_dict()):
            raise DataError(
                f"{weights}: {model.name} was exported from other weights. Name them with --weights."
            )
        exported, config = (model, info), info.config
        if config != own:
            # What the file is compared with has its settings: T may be another.
            weights = FOLDER / "given" / f"{model.stem}.safetensors"
            save_model(weights, net, config)
    if data is not None:
        return _subject(model.stem, weights, Dataset.open(data, config), exported)
    rng = np.random.default_rng(0)
    widths = (config.data.rgb_width, config.data.flow_width)

    def draw() -> Recording:
        rgb, flow = (rng.random((segments, width), dtype=np.float32) for width in widths)
        return rgb, flow

    return Subject(model.stem, weights, tuple(draw() for _ in range(16)), exported=exported)


def subject(name: str, device: str = "cpu") -> Subject:
    """``demo`` or ``thumos14``, trained now if it is not there.

    Raises:
        AiclError: another name.
    """
    makers = {"demo": demo_subject, "thumos14": thumos_subject}
    if name not in makers:
        raise AiclError(f"--subject: expected {' or '.join(makers)}, got {name!r}.")
    return makers[name](device=device)


def _subject(
    name: str, weights: Path, dataset: Dataset, exported: tuple[Path, ModelInfo] | None = None
) -> Subject:
    width = dataset.config.data.rgb_width

    def streams(video: str) -> Recording:
        features: Floats = dataset.features("test", video)
        rgb, flow = (np.ascontiguousarray(part) for part in (features[:, :width], features[:, width:]))
        return rgb, flow

    recordings = tuple(streams(video) for video in dataset.videos["test"])
    return Subject(name, weights, recordings, dataset, exported)


def _before_training(config: Config) -> Config:
    """A model's settings without what the trainer adds to them."""
    return replace(config, data=replace(config.data, typical_segments=0, longest_segments=0))


def _trained(root: Path, dataset: Dataset, device: str) -> Path:
    weights = root / "run" / "model.safetensors"
    if weights.is_file() and _before_training(load_model(weights)[1]) == dataset.config:
        return weights
    sys.stderr.write(f"training the {root.name} model, once\n")
    # Its curves concern nobody, and writing them would need TensorBoard.
    found = train(dataset, device=device)
    save_model(weights, found.net, found.config)
    return weights
