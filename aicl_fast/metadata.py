"""The settings that every model file carries, whatever its format. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

from aicl_fast.config import Config
from aicl_fast.errors import AiclError, ModelError
from aicl_fast.limits import require_size
from aicl_fast.text import error_text, parse_json

METADATA_KEY = "aicl_fast"
"""The header or property that holds the JSON, in every kind of model file."""
FORMAT = 1
DETECTOR = "detector"
"""The kind of a model file that names none: it reads features and localises actions."""
I3D = "i3d"
"""The kind of a segment network, which reads video."""

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
"""What an exported file's products are computed in; sums, softmax and sigmoids are float32 in all."""


class Range(NamedTuple):
    """The sizes that a dimension of an exported network may have."""

    min: int
    opt: int
    """What it is tuned for."""
    max: int

    @property
    def fixed(self) -> bool:
        """Only one size is possible."""
        return self.min == self.max

    def __str__(self) -> str:
        return str(self.opt) if self.fixed else f"{self.min}:{self.opt}:{self.max}"


BATCH = Range(1, 8, 64)
"""The batch sizes of an exported network for which none were asked."""

Stream = Literal["rgb", "flow"]
FRAMES = 16
"""Of a segment."""
SIZE = 224
WIDTH = 1024

_UNSET = Range(0, 0, 0)
_LARGEST = 2**31 - 1
_LARGEST_SIZE = 1_000_000


@dataclass(frozen=True)
class ModelInfo:
    """Everything that an exported file says about itself.

    Attributes:
        config: the settings, with the classes.
        precision: what its products are computed in.
        batch: videos per run.
        segments: T; ``config.data.segments`` is its ``opt``.
        weights: SHA-256 of the trained weights in hexadecimal, see :func:`aicl_fast.weights.weights_hash`;
            empty in files of version 0.1.0 and before.
        version: the aicl_fast that wrote it.
    """

    config: Config
    precision: Precision = "fp32"
    batch: Range = BATCH
    segments: Range = _UNSET
    weights: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if self.segments == _UNSET:
            length = self.config.data.segments
            object.__setattr__(self, "segments", Range(length, length, length))

    @property
    def run_size(self) -> int:
        """Bytes that running and decoding the smallest batch takes at least."""
        data, segments, classes = self.config.data, self.segments.opt, self.config.model.num_classes
        values = self.batch.min * segments * (data.input_width + classes)
        return 4 * values + 8 * segments * self.config.decode.upscale * classes

    def to_json(self) -> str:
        """What a file carries under :data:`METADATA_KEY`."""
        return model_metadata(
            self.config,
            precision=self.precision,
            batch=self.batch,
            segments=self.segments,
            weights_sha256=self.weights,
            normalisation="in the graph" if self.config.model.standardize_input else "none",
        )


@dataclass(frozen=True)
class SegmentInfo:
    """What an exported segment network says about itself.

    Attributes:
        stream: ``rgb`` or ``flow``.
        weights: SHA-256 of the weights in hexadecimal, the same for every file made of them.
        precision: what its convolutions are computed in.
        batch: segments per run.
        classes: of the head.
        frames: of a segment.
        size: height and width of a frame.
        width: features per segment.
        version: the aicl_fast that wrote it.
    """

    stream: Stream
    weights: str
    precision: Precision = "fp32"
    batch: Range = BATCH
    classes: int = 400
    frames: int = FRAMES
    size: int = SIZE
    width: int = WIDTH
    version: str = ""

    @property
    def channels(self) -> int:
        """Of a frame."""
        return 3 if self.stream == "rgb" else 2

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Of one segment: frames, height, width, channels."""
        return self.frames, self.size, self.size, self.channels

    @property
    def name(self) -> str:
        """Of the network, as ``aicl-fast export --model`` has it."""
        return f"{I3D}-{self.stream}"

    @property
    def run_size(self) -> int:
        """Bytes that running the smallest batch takes at least."""
        return 4 * self.batch.min * (math.prod(self.clip_shape) + self.width + self.classes)

    def to_json(self) -> str:
        """What a file carries under :data:`METADATA_KEY`."""
        from aicl_fast import __version__

        document = {"format": FORMAT, "kind": I3D, **asdict(self), "version": __version__}
        document["weights_sha256"] = document.pop("weights")
        return json.dumps(document)


def model_metadata(config: Config, **more: Any) -> str:
    """The JSON that a model file carries: the settings with the classes, and who wrote it."""
    from aicl_fast import __version__

    document = {"format": FORMAT, "version": __version__, "config": config.to_dict(), **more}
    return json.dumps(document)


def parse_metadata(text: str | None, source: str | os.PathLike[str]) -> Config:
    """The settings in a model file's metadata.

    Raises:
        ModelError: there is none (the file is not an aicl_fast model), or a newer version wrote it.
    """
    return parse_info(text, source).config


def parse_info(text: str | None, source: str | os.PathLike[str]) -> ModelInfo:
    """All that a detector's metadata says. What a file of an older version leaves out has its default.

    Raises:
        ModelError: there is none (the file is not an aicl_fast model), a segment network's, or a newer
            version wrote it.
    """
    kind, document = read_document(text, source)
    if kind != DETECTOR:
        raise ModelError(
            f"{source}: is a network of kind {kind!r}, which reads video; expected a detector's model, which "
            "reads features. Open it with aicl_fast.video.open_network."
        )
    with reading_settings(source):
        return ModelInfo(
            config=Config.from_dict(document["config"], source=str(source)),
            precision=read_choice(document.get("precision", "fp32"), Precision, "precision"),
            batch=read_range(document.get("batch", BATCH), "batch"),
            segments=read_range(document["segments"], "segments") if "segments" in document else _UNSET,
            weights=str(document.get("weights_sha256", "")),
            version=str(document.get("version", "")),
        )


def parse_segment_info(text: str | None, source: str | os.PathLike[str]) -> SegmentInfo:
    """What a segment network's metadata says.

    Raises:
        ModelError: there is none, it is a detector's, or a newer version wrote it.
    """
    kind, document = read_document(text, source)
    if kind != I3D:
        raise ModelError(
            f"{source}: is a detector's model, which reads features; expected a network that reads video, as "
            "`aicl-fast export --model i3d-rgb` writes. Open it with aicl_fast.Detector."
        )
    with reading_settings(source):
        sizes = {
            name: read_range([1, document[name], _LARGEST_SIZE], name).opt
            for name in ("classes", "frames", "size", "width")
        }
        return SegmentInfo(
            stream=read_choice(document["stream"], Stream, "stream"),
            weights=str(document["weights_sha256"]),
            precision=read_choice(document["precision"], Precision, "precision"),
            batch=read_range(document["batch"], "batch"),
            version=str(document["version"]),
            **sizes,
        )


@contextlib.contextmanager
def reading_settings(source: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong in reading a model file's settings, as a ModelError that names the file."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # whatever damaged settings lead to
        why = error_text(error).removeprefix(f"{source}: ")
        raise ModelError(f"{source}: its settings cannot be read ({why}). Export it again.") from error


def read_document(text: str | None, source: str | os.PathLike[str]) -> tuple[str, Mapping[str, Any]]:
    """A model file's metadata as it is, and the kind of model: :data:`DETECTOR`, or a segment network's.

    Every text in it is clean.

    Raises:
        ModelError: there is none (the file is not an aicl_fast model), it is damaged, or a newer version
            wrote it.
    """
    if text is None:
        raise ModelError(
            f"{source}: is not an aicl_fast model: it carries no settings. Expected a file written by "
            "`aicl-fast train` or `aicl-fast export`."
        )
    with reading_settings(source):
        document = parse_json(text, source, "metadata")
        if document["format"] != FORMAT:
            raise ModelError(
                f"{source}: has metadata format {document['format']}, written by aicl_fast "
                f"{document.get('version')}; this version reads format {FORMAT}. Upgrade aicl_fast."
            )
        return str(document.get("kind", DETECTOR)), document


def read_range(sizes: Any, name: str) -> Range:
    """A range of sizes in metadata.

    Raises:
        ValueError: no whole numbers that rise from 1.
    """
    parsed = Range(*sizes)
    whole = all(type(size) is int for size in parsed)
    if not whole or not 1 <= parsed.min <= parsed.opt <= parsed.max <= _LARGEST:
        raise ValueError(f"{name}: expected three whole numbers that rise from 1, got {sizes!r}")
    return parsed


def read_choice(value: Any, possible: Any, name: str) -> Any:
    """One of a ``Literal``'s values in metadata.

    Raises:
        ValueError: another value.
    """
    if value not in get_args(possible):
        raise ValueError(f"{name}: expected one of {', '.join(get_args(possible))}, got {value!r}")
    return value


def require_sizes(
    info: ModelInfo | SegmentInfo,
    on_disk: int,
    source: str | os.PathLike[str],
    *,
    error: type[AiclError] = ModelError,
) -> None:
    """Compare what settings make us allocate with the size of the file that they are in.

    Raises:
        AiclError: ``error``: much more memory than the file warrants, see
            :func:`aicl_fast.limits.require_size`.
    """
    require_size(info.run_size, on_disk, source, "a run with its settings of sizes", error=error)
