"""A folder of features: which file belongs to which video, and reading it.

rgb/<video>.npy and flow/<video>.npy        (n, width) float each, one row a segment
or <video>.npy                              both streams side by side, or the one that is read
or <video>_rgb.npy and <video>_flow.npy     the streams' files in one folder
or <video>.npz                              what ``aicl-fast features`` wrote, see feature_file.py

Names are compared in one Unicode form, and ``v_`` before either is overlooked: ActivityNet's files have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aicl_fast.config import DataConfig
from aicl_fast.data.feature_file import load_video_features
from aicl_fast.data.feature_formats import other_format
from aicl_fast.data.features import EXTRACTED, Floats, check_lengths, check_width, load_features, map_features
from aicl_fast.data.stream_names import STREAMS, spellings, split_stream
from aicl_fast.errors import DataError
from aicl_fast.text import clean_text

ARRAY = ".npy"
_LISTED = 100
"""Missing files that an error lists."""
_HINTS = 3


class FeatureFiles(NamedTuple):
    """The files of one video.

    Attributes:
        paths: those that are there.
        missing: those that are not, as they would be named.
        apart: whether each is of one stream.
    """

    paths: tuple[Path, ...]
    missing: tuple[Path, ...] = ()
    apart: bool = False

    @property
    def extracted(self) -> bool:
        """Whether ``aicl-fast features`` wrote it."""
        return bool(self.paths) and is_extracted(self.paths[0])


def is_extracted(path: Path) -> bool:
    """Whether a file is named as those of ``aicl-fast features`` are."""
    return path.suffix.lower() == EXTRACTED


def streams_of(data: DataConfig) -> list[str]:
    """The streams that a model with these settings reads."""
    return [stream for stream in STREAMS if data.streams in ("both", stream)]


class FeatureFolder:
    """The feature files of a folder. Each folder's list is read once.

    Attributes:
        path: the folder.
        apart: whether it keeps the two streams in folders of their own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.apart = any(os.path.isdir(path / stream) for stream in STREAMS)
        self._lists: dict[Path, dict[str, list[Path]]] = {}

    def find(self, video: str, data: DataConfig) -> FeatureFiles:
        """The files of a video: one a stream that the model reads, or one with both.

        Args:
            video: its name, as :func:`aicl_fast.text.require_name` gives it.
        Raises:
            DataError: two files have this name, in different spellings.
        """
        *inside, name = video.split("/")
        home = self.path.joinpath(*inside)
        if not self.apart:
            one = self._lookup(home, spellings(name), (ARRAY, EXTRACTED))
            if one is not None:
                return FeatureFiles((one,))
        found: list[Path] = []
        missing: list[Path] = []
        for stream in streams_of(data):
            place = (self.path / stream).joinpath(*inside) if self.apart else home
            path = self._lookup(place, spellings(name, stream), (ARRAY,))
            if path is not None:
                found.append(path)
            else:
                missing.append(place / f"{name if self.apart else f'{name}_{stream}'}{ARRAY}")
        if not (self.apart or found):
            missing = [home / f"{name}{ARRAY}"]
        return FeatureFiles(tuple(found), tuple(missing), apart=True)

    def videos(self, data: DataConfig) -> list[str]:
        """The names of all videos that have a file."""
        if self.apart:
            names = {
                name if split_stream(name)[1] != stream else split_stream(name)[0]
                for stream in streams_of(data)
                for name in self._names(self.path / stream, (ARRAY,))
            }
            return sorted(names)
        stems = self._names(self.path, (ARRAY, EXTRACTED))
        streams: dict[str, set[str]] = {}
        for stem in stems:
            rest, stream = split_stream(stem)
            streams.setdefault(rest, set()).add(stream)
        names = set()
        for stem in stems:
            rest, stream = split_stream(stem)
            pair = rest and (streams[rest] >= set(STREAMS) or data.streams == stream)
            names.add(rest if pair else stem)
        return sorted(names)

    def read(self, video: str, data: DataConfig, *, mapped: bool = False) -> tuple[Floats, ...]:
        """The streams of one video that the model reads. See :func:`read_files`."""
        files = self.find(video, data)
        if files.missing:
            hint = self.hint(video) or " Check the path."
            raise DataError(f"{files.missing[0]}: the feature file does not exist.{hint}")
        return read_files(files, data, mapped=mapped)

    def hint(self, video: str) -> str:
        """What is there in place of a missing file, as a sentence after a space, or nothing."""
        *inside, name = video.split("/")
        homes = [self.path / stream for stream in STREAMS] if self.apart else [self.path]
        wanted = {each.casefold() for stream in ("", *STREAMS) for each in spellings(name, stream)}
        for home in homes:
            for path in (path for paths in self._list(home.joinpath(*inside)).values() for path in paths):
                if clean_text(path.stem).casefold() not in wanted:
                    continue
                if path.suffix.lower() in (ARRAY, EXTRACTED):
                    if clean_text(path.stem) not in spellings(name):
                        return f" {path} is there: names must agree in upper and lower case."
                elif text := other_format(path):
                    return f" {path} is there. {text}"
        return ""

    def others(self) -> str:
        """What the first file in another format is, as a sentence after a space, or nothing."""
        homes = [self.path / stream for stream in STREAMS] if self.apart else [self.path]
        for path in (path for home in homes for paths in self._list(home).values() for path in paths):
            if path.suffix.lower() not in (ARRAY, EXTRACTED) and (text := other_format(path)):
                return f" {path} is there. {text}"
        return ""

    def _names(self, home: Path, suffixes: Sequence[str]) -> list[str]:
        return [Path(name).stem for name in self._list(home) if Path(name).suffix in suffixes]

    def _lookup(self, home: Path, stems: Sequence[str], suffixes: Sequence[str]) -> Path | None:
        files = self._list(home)
        for name in (f"{stem}{suffix}" for suffix in suffixes for stem in stems):
            if len(found := files.get(name, [])) > 1:
                raise DataError(
                    f"{found[0]} and {found[1]}: are one name in different spellings (Unicode forms, "
                    "characters that cannot be shown, or the case of the ending). Remove or rename one."
                )
            if found:
                return found[0]
        return None

    def _list(self, home: Path) -> dict[str, list[Path]]:
        """The files of a folder by their clean names, sorted, the ending in lower case."""
        if home not in self._lists:
            found: dict[str, list[Path]] = {}
            try:
                with os.scandir(home) as entries:
                    files = sorted(each.name for each in entries if each.is_file() and each.name[0] != ".")
            except (FileNotFoundError, NotADirectoryError):
                files = []
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DataError(f"{home}: the folder of features cannot be read ({reason}).") from error
            for path in map(Path, files):
                found.setdefault(f"{clean_text(path.stem)}{path.suffix.lower()}", []).append(home / path)
            self._lists[home] = found
        return self._lists[home]


def features_folder(root: Path, split: str) -> Path:
    """Where a data set keeps a split's features: ``features/<split>``, or ``features`` for all splits."""
    features = root / "features"
    apart = any(os.path.isdir(features / each) for each in ("train", "test"))
    return features / split if apart else features


def missing_features(root: Path, lost: Mapping[str, FeatureFiles], folders: Mapping[str, FeatureFolder],
                     every: int, *, extracted: bool) -> DataError:  # fmt: skip
    """The error about videos without features.

    Args:
        lost: what was found of each.
        folders: where each was looked for.
        every: how many files there should be.
        extracted: whether the others' files are those of ``aicl-fast features``.
    """
    files = [path for each in lost.values() for path in each.missing]
    if extracted:
        files = [path.with_suffix(EXTRACTED) for path in files]
    shown = "".join(f"\n  {path}" for path in files[:_LISTED])
    more = f"\n  … and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    hints = [hint for video in list(lost)[:_LISTED] if (hint := folders[video].hint(video))][:_HINTS]
    return DataError(
        f"{root}: {len(files)} of {every} feature files {'is' if len(files) == 1 else 'are'} missing:{shown}"
        f"{more}\n{''.join(hint[1:] + chr(10) for hint in hints)}"
        "Download or extract them, take the videos off the split files, or leave out videos without features "
        "(--allow-missing)."
    )


def read_streams(folder: Path, video: str, data: DataConfig, *, mapped: bool = False) -> tuple[Floats, ...]:
    """The streams of one video in a folder of features. See :func:`read_files`."""
    return FeatureFolder(folder).read(video, data, mapped=mapped)


def read_files(files: FeatureFiles, data: DataConfig, *, mapped: bool = False) -> tuple[Floats, ...]:
    """The streams of one video that the model reads, (n, width) each; or both in one array.

    Args:
        mapped: leave float32 files on disk and read what is used.
    Raises:
        DataError: see :func:`aicl_fast.data.features.load_features`; another width than the settings'; or the
            streams differ in length.
    """
    paths = files.paths
    if files.extracted:
        return load_video_features(paths[0], mapped=mapped).streams(data, str(paths[0]))
    read = map_features if mapped else load_features
    loaded = tuple(read(path) for path in paths)
    streams = streams_of(data)
    if not files.apart:
        (one,) = loaded
        if data.streams == "both" and one.shape[1] in (data.rgb_width, data.flow_width):
            raise DataError(
                f"{paths[0]}: expected {data.input_width} features a segment, got {one.shape[1]}, as one "
                f"stream alone has. The model reads rgb ({data.rgb_width}) and flow ({data.flow_width}): "
                "give both, as <video>_rgb.npy and <video>_flow.npy, or in folders rgb/ and flow/."
            )
        if data.streams != "both" and one.shape[1] == data.rgb_width + data.flow_width:
            return (one[:, : data.rgb_width] if data.streams == "rgb" else one[:, data.rgb_width :],)
        _check_widths(paths[0], one, data, streams)
        return loaded
    for path, array, stream in zip(paths, loaded, streams, strict=True):
        _check_widths(path, array, data, [stream])
    check_lengths(*loaded, name=" and ".join(map(str, paths)))
    return loaded


def _check_widths(path: Path, array: Floats, data: DataConfig, streams: Sequence[str]) -> None:
    """Refuse another width than that of these streams side by side."""
    widths = {f"{stream}_width": getattr(data, f"{stream}_width") for stream in streams}
    settings = " ".join(f"--set {name}=…" for name in widths)
    check_width(
        array.shape,
        list(widths.values()),
        str(path),
        spoken=f" ({' + '.join(f'{name} {width}' for name, width in widths.items())})",
        advice=f"Use the features that the model was trained on; to train one on these, {settings}.",
    )
