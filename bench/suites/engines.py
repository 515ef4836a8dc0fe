"""Every engine, precision and batch that runs here: speed beside the accuracy of the very same file.

    python -m aicl_fast.bench engines --json engines.json
    python -m aicl_fast.bench engines --subject demo --batch 1,8,64
    python -m aicl_fast.bench engines --model m.onnx --data THUMOS14

The weights are exported in every format and precision that `export/formats.py` has, and each file is opened
in its own engine; what cannot be exported or opened here is listed with its reason. A row is one file at one
batch: features in memory to fused scores and video scores, its mAP through the whole pipeline, and the share
of what the machine's own measured rates allow. The baseline is the reference network on the same batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aicl_fast.bench.baselines.detect import ReferenceDetector
from aicl_fast.bench.harness import machine, suite, tables
from aicl_fast.bench.harness.measure import FILL, PAUSE, Call, rotating, take_turns
from aicl_fast.bench.harness.models import Subject, given_subject, subject
from aicl_fast.bench.harness.record import warn_if_busy
from aicl_fast.config import Config
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample
from aicl_fast.detector import Detector
from aicl_fast.engines.packages import import_onnxruntime
from aicl_fast.errors import AiclError, UnavailableError
from aicl_fast.export import formats
from aicl_fast.export.export import export_model
from aicl_fast.export.options import CALIBRATED, ExportOptions
from aicl_fast.weights import load_model

BASELINE = "reference"
BATCHES = (1, 8, 64)
LONGEST = 1.5
"""Seconds: a batch whose baseline would take longer on the CPU is skipped."""
FORMATS = {name: row.precisions for name, row in formats.FORMATS.items()}
_TORCH_PRECISIONS = {"cpu": ("fp32",), "cuda": ("fp32", "bf16", "fp16", "fp8")}
_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
_TOLERANCE = {"fp32": 1e-3, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.2, "fp8": 0.2}
"""Relative difference of scores from the reference's, by norm."""
_RATES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "fp8": "float8_e4m3fn"}


@dataclass(frozen=True)
class Contender:
    """One file in one engine.

    Attributes:
        engine: its name.
        format: what the file is.
        precision: of its products.
        detector: the file, open.
        open_ms: what opening took.
        first_ms: what the first video took.
        mAP: of the file, on the subject's recordings; None without a data set.
    """

    engine: str
    format: str
    precision: str
    detector: Detector
    open_ms: float
    first_ms: float
    mAP: float | None

    @property
    def name(self) -> str:
        """The format and the precision: no two contenders have both."""
        return f"{self.format}, {self.precision}"

    @property
    def pipeline(self) -> str:
        """What to call it in a table."""
        names = {**tables.ENGINE_NAMES, "torch": "torch, our decoding"}
        return f"{names.get(self.engine, self.engine)}, {self.precision}"


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why."""

    format: str
    precision: str
    why: str


def contenders(what: Subject, folder: Path, threads: int, device: str) -> Iterator[Contender | LeftOut]:
    """The weights in torch; then the exported file that was given, or one of every format and precision.

    Args:
        what: the model.
        folder: for the files, and what mAP they have; those that are there of the same weights are taken.
        threads: of engines on the CPU.
        device: ``cpu`` or ``cuda``.
    """
    stem = f"{what.name}-{hashlib.sha256(what.weights.read_bytes()).hexdigest()[:12]}"
    for precision in _TORCH_PRECISIONS[device]:
        options: dict[str, Any] = {"precision": precision, "device": device}
        path, options["threads"] = what.weights, threads
        yield _open(what, path, "safetensors", precision, options, folder / f"{stem}-{precision}.mAP")
        if what.exported is not None:
            break  # the first is what the baseline is compared with
    if what.exported is not None:
        path, info = what.exported
        rows = formats.FORMATS.values()
        format_ = next((row.name for row in rows if row.suffix == path.suffix), path.suffix[1:])
        note = folder / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.mAP"
        yield _open(what, path, format_, info.precision, _settings(format_, threads, device), note)
        return
    for format_, precisions in FORMATS.items():
        row = formats.FORMATS.get(format_)
        if row is None or not row.suffix:
            continue  # a folder for a server
        elsewhere = format_ == "openvino" if device == "cuda" else format_.startswith("tensorrt")
        if elsewhere:
            yield LeftOut(format_, "", f"does not run on {device}")
            continue
        if format_ == "onnx" and device == "cuda" and not _runs_on_cuda():
            yield LeftOut(format_, "", "ONNX Runtime has no CUDAExecutionProvider here")
            continue
        for precision in precisions:
            if precision in CALIBRATED and what.dataset is None:
                yield LeftOut(format_, precision, "is calibrated on recordings: name a data set with --data")
                continue
            path = folder / f"{stem}-{format_}-{precision}{row.suffix}"
            try:
                if not path.is_file():
                    sys.stderr.write(f"exporting {what.name} as {format_}, {precision}\n")
                    export_model(what.weights, path, _options(what, format_, precision))
            except Exception as error:  # of an exporter's own libraries, too: one format is not the others
                yield LeftOut(format_, precision, _first_line(error, path))
                continue
            settings = _settings(format_, threads, device)
            yield _open(what, path, format_, precision, settings, path.with_suffix(".mAP"))


def _settings(format_: str, threads: int, device: str) -> dict[str, Any]:
    """How a file is opened."""
    settings: dict[str, Any] = {"device": device} if format_ == "onnx" else {}
    return {**settings, "threads": threads} if device == "cpu" else settings


def _runs_on_cuda() -> bool:
    """Whether ONNX Runtime is here, built for it."""
    try:
        return "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    except UnavailableError:
        return False


def open_all(
    what: Subject, folder: Path, threads: int, device: str
) -> tuple[list[Contender], list[dict[str, Any]]]:
    """All that run, and the rows of those that do not."""
    running, others = [], []
    for found in contenders(what, folder, threads, device):
        if isinstance(found, Contender):
            running.append(found)
        else:
            others.append({"subject": what.name, **dataclasses.asdict(found)})
    return running, others


def _options(what: Subject, format_: str, precision: str) -> ExportOptions:
    # Whatever calibrates says so when it is not given the data, so only those get it.
    plain = ExportOptions(format_, precision)
    if what.dataset is None or precision not in CALIBRATED:
        return plain
    return dataclasses.replace(plain, calibrate=what.dataset.root)


def _open(
    what: Subject, path: Path, format_: str, precision: str, settings: dict[str, Any], note: Path
) -> Contender | LeftOut:
    try:
        start = time.perf_counter()
        detector = Detector(path, **settings)
        opened = time.perf_counter()
        detector(*what.recordings[0])
        first = time.perf_counter()
        average = _accuracy(what, detector, note)
    except Exception as error:  # one that a device or a library fails on is a result, not the end of the run
        return LeftOut(format_, precision, _first_line(error, path))
    return Contender(
        detector.engine.name,
        format_,
        precision,
        detector,
        1e3 * (opened - start),
        1e3 * (first - opened),
        average,
    )


def _accuracy(what: Subject, detector: Detector, note: Path) -> float | None:
    """The file's mAP, or what was noted of it; measuring it takes seconds."""
    if note.is_file():
        return float(note.read_text())
    average = what.mean_average(detector)
    if average is not None:
        note.write_text(repr(average))
    return average


def _first_line(error: Exception, path: Path) -> str:
    """The reason in a line that names no folder of this machine."""
    text = (str(error).splitlines() or [""])[0]
    if not isinstance(error, AiclError):
        text = f"{type(error).__name__}: {text}"
    return text.replace(str(path.parent) + "/", "").removeprefix(f"{path.name}: ")[:300]


def work(config: Config, batch: int, format_: str = "", precision: str = "fp32") -> tuple[int, int]:
    """Bytes that have to move and operations that have to be done for a batch.

    Features are read once and the four results written once, in float32; parameters are read once, in the
    precision. The operations are those of the three kernel-3 convolutions and of the heads; files that are
    written with Winograd's convolution have half the products and twice the weights.

    Args:
        config: of the model.
        batch: videos.
        format_: of the file; empty for the network in torch.
        precision: of its products.
    """
    data, model = config.data, config.model
    length, width, classes = data.segments, data.input_width, model.num_classes
    embedding = 3 * 2 * width * model.embedding_width  # both streams together, and each on its own
    heads = model.embedding_width * (classes + 2)
    # What `export` chooses by itself: TensorRT files stay direct.
    row = formats.FORMATS.get(format_)
    halved = row is not None and row.prefers_winograd and precision in row.winograd
    results = length * classes + classes + 2 * length
    moved = 4 * batch * (length * width + results)
    moved += _BYTES[precision] * ((2 if halved else 1) * embedding + heads)
    return moved, 2 * batch * length * ((embedding // 2 if halved else embedding) + heads)


def apart(reference: ReferenceDetector, detector: Detector, features: Floats) -> float:
    """Relative difference, by norm, of a file's fused scores from the reference's; infinite where one is NaN.

    Args:
        reference: the baseline.
        detector: the file, open.
        features: (B, T, D).
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = reference.scores(torch.from_numpy(features))[0]
    found = float(np.linalg.norm(detector.engine(features).scores - expected) / np.linalg.norm(expected))
    return found if np.isfinite(found) else float("inf")


def measure(
    what: Subject,
    running: Sequence[Contender],
    batch: int,
    seconds: float,
    rates: dict[str, float],
    device: str,
) -> list[dict[str, Any]]:
    """One batch size: every contender in turn with the reference network."""
    config = what.config
    reference = ReferenceDetector(load_model(what.weights)[0], config, device)
    inputs = [_features(config, each) for each in what.batches(batch)]
    calls: dict[str, Call] = {BASELINE: rotating(reference.scores, [torch.from_numpy(x) for x in inputs])}
    calls |= {each.name: rotating(each.detector.engine, inputs) for each in running}
    timings = take_turns(calls, BASELINE, seconds=seconds, least=5, pause=PAUSE, fill=FILL)
    rows = []
    for each in (None, *running):
        name = BASELINE if each is None else each.name
        timing = timings[name]
        precision = "fp32" if each is None else each.precision
        moved, operations = work(config, batch, "" if each is None else each.format, precision)
        floor = machine.floor_seconds(rates, moved, operations, _RATES.get(precision, precision))
        if what.exported is not None and each is not None and each.format != "safetensors":
            floor = None  # it does not say which convolution it was written with
        rows.append(
            {
                "subject": what.name,
                "engine": name if each is None else each.engine,
                "format": "" if each is None else each.format,
                "precision": precision,
                "batch": batch,
                "mAP": None if each is None else each.mAP,
                **timing.row(),
                "videos_per_second": batch / timing.median,
                "open_ms": None if each is None else each.open_ms,
                "first_ms": None if each is None else each.first_ms,
                "bytes": moved,
                "operations": operations,
                "floor_ms": None if floor is None else 1e3 * floor,
                "share_of_floor": None if floor is None else floor / timing.median,
            }
        )
    # The reference computes what the weights in torch do, which the tests hold: the same mAP.
    rows[0]["mAP"] = exact_accuracy(running)
    return rows


def exact_accuracy(running: Sequence[Contender]) -> float | None:
    """The mAP of the weights in torch, in float32; None if they are not among them."""
    exact = (each for each in running if (each.format, each.precision) == ("safetensors", "fp32"))
    return next((each.mAP for each in exact), None)


def agreeing(
    what: Subject, running: Sequence[Contender], device: str
) -> tuple[list[Contender], list[dict[str, Any]]]:
    """The contenders whose scores are the reference's within their precision, and the rows of the others."""
    config = what.config
    reference = ReferenceDetector(load_model(what.weights)[0], config, device)
    features = _features(config, what.batches(1)[0])
    right, others = [], []
    for each in running:
        error = apart(reference, each.detector, features)
        # A GPU's float32 products are tf32.
        precision = "tf32" if device == "cuda" and each.precision == "fp32" else each.precision
        if error <= _TOLERANCE[precision]:
            right.append(each)
            continue
        why = f"its scores differ from the reference's by {error:.2g}, relatively"
        left = LeftOut(each.format, each.precision, why)
        others.append({"subject": what.name, **dataclasses.asdict(left)})
    return right, others


def _features(config: Config, recordings: Sequence[Any]) -> Floats:
    return sample(recordings, config.data.segments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = suite.parser(
        __doc__, model=None, weights=None, data=None, folder=None, batch=BATCHES, seconds=60.0,
        threads=torch.get_num_threads(), device="cpu",
    )  # fmt: skip
    parser.add_argument("--subject", default="demo,thumos14", help="demo, thumos14 or both (both)")
    options = parser.parse_args(arguments)
    machine.require(options.device)
    warn_if_busy()
    torch.set_num_threads(options.threads)
    if options.model is not None:
        subjects = [given_subject(options.model, options.data, options.weights)]
    else:
        subjects = _available(options.subject.split(","), options.device)
    on_cpu = options.device == "cpu"
    rates = machine.processor_rates() if on_cpu else machine.gpu_rates(torch.device("cuda"))
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    each = options.seconds / len(subjects) / len(options.batch)

    def keep() -> None:
        more = {"threads": options.threads, "rates": rates, "left_out": left_out}
        suite.record(options.json, "engines", rows, **more)

    with working_folder(options.folder) as folder:
        for what in subjects:
            running, others = open_all(what, folder, options.threads, options.device)
            running, wrong = agreeing(what, running, options.device)
            left_out += others + wrong
            longest = 0.0
            for batch in sorted(options.batch):
                if on_cpu and batch * longest > LONGEST:
                    why = f"batch {batch}: a call would take over {LONGEST:g} s"
                    left_out.append({"subject": what.name, **dataclasses.asdict(LeftOut("", "", why))})
                    continue
                found = measure(what, running, batch, each, rates, options.device)
                longest = found[0]["p50_ms"] / 1e3 / batch
                rows += found
                print("\n".join(tables.engines({"rows": found}, what.name)), flush=True)
                keep()
    for row in left_out:
        print(f"{row['subject']} {row['format']} {row['precision']}: skipped, {row['why']}")
    keep()


@contextlib.contextmanager
def working_folder(kept: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that goes when the block ends."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _available(names: Sequence[str], device: str) -> list[Subject]:
    """The subjects that can be had here; the last one's reason if there is none."""
    found: list[Subject] = []
    failure: AiclError | None = None
    for name in names:
        try:
            found.append(subject(name, device))
        except AiclError as error:
            print(f"{name}: skipped, {error}")
            failure = error
    if failure is not None and not found:
        raise failure
    return found
