"""Names of videos and labels from two files: made comparable, and why they do not match where they do not."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from aicl_fast.data.stream_names import split_stream
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.files import read_text
from aicl_fast.text import clean_text, loose_form, parse_json, require_name

EXCLUSIONS: Mapping[str, tuple[str, ...]] = {
    "thumos14": ("video_test_0000270", "video_test_0001292", "video_test_0001496"),
}
"""Lists of videos that some works leave out, by the name that ``exclude`` takes."""

_CAUSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("a folder", lambda name: name.rpartition("/")[2]),
    ("the prefix v_", lambda name: name.removeprefix("v_")),
    ("the ending of a file", lambda name: re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", "", name)),
    ("the name of a stream", lambda name: split_stream(name)[0] or name),
    ("leading zeros", lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name)),
    ("case, spaces, underscores or hyphens", loose_form),
)
_Item = TypeVar("_Item")


def clean_names(items: Mapping[str, _Item], source: str) -> Mapping[str, _Item]:
    """The same by clean names, as files are read (see :func:`aicl_fast.text.clean_text`).

    Raises:
        DataError: a name that is no text, or two that are equal then.
    """
    if not all(isinstance(name, str) for name in items):
        other = next(name for name in items if not isinstance(name, str))
        raise DataError(f"{source}: a video's name is {other!r}; expected text.")
    cleaned = {clean_text(name).strip(): item for name, item in items.items()}
    if len(cleaned) != len(items):
        raise DataError(
            f"{source}: two videos' names differ in spaces around them or in their Unicode form alone. Name "
            "each video once."
        )
    return cleaned


def likely_cause(theirs: Iterable[str], ours: Iterable[str]) -> str:
    """What a name of the first and one of the second differ in, as a sentence; empty where nothing fits."""
    theirs, ours = list(theirs), list(ours)

    def every(name: str) -> str:
        for _, form in _CAUSES:
            name = form(name)
        return name

    all_of_it = "folder, prefix, ending or case", every
    for words, form in (*_CAUSES, all_of_it):
        forms = {form(name): name for name in ours}
        for name in theirs:
            like = forms.get(form(name))
            if like is not None and like != name:
                return f"{name!r} and {like!r} differ in {words} alone: write both in the same way."
    return ""


def label_cause(unknown: Iterable[str], classes: Iterable[str]) -> str:
    """Why labels are not among the classes, as a sentence; empty where nothing fits."""
    unknown = list(unknown)
    forms = {loose_form(name): name for name in classes}
    for label in unknown:
        like = forms.get(loose_form(label))
        if like is not None:
            words = _CAUSES[-1][0]
            return f"{label!r} and {like!r} differ in {words} alone: write both in the same way."
    if all(label.isdecimal() for label in unknown):
        return "They are numbers; expected the classes' names, as in the annotations."
    return ""


def excluded_videos(exclude: str | Iterable[str], known: Collection[str], remarks: list[str]) -> set[str]:
    """The videos to leave out.

    Args:
        exclude: names of videos, of lists in :data:`EXCLUSIONS`, or of files that list videos: a JSON list,
            or one name per line. Several may be separated by commas.
        known: the names in the annotations and the detections.
        remarks: gets a sentence on names in a file that are not known.
    Raises:
        ConfigError: a name that is none of these, or a file of which no name is known.
        DataError: a file that cannot be read as a list of names.
    """
    excluded: set[str] = set()
    for entry in (exclude,) if isinstance(exclude, str) else exclude:
        name = clean_text(str(entry)).strip()
        if name in EXCLUSIONS:
            excluded.update(EXCLUSIONS[name])
        elif name in known:
            excluded.add(name)
        elif os.path.isfile(entry):
            excluded |= _listed(entry, known, remarks)
        elif "," in name and (parts := [part for part in name.split(",") if part.strip()]):
            excluded |= excluded_videos(parts, known, remarks)
        else:
            close = difflib.get_close_matches(name, [*known, *EXCLUSIONS], n=3, cutoff=0.5)
            hint = likely_cause([name], known) or (f"Did you mean {' or '.join(close)}?" if close else "")
            raise ConfigError(
                f"exclude: {name!r} is no video of the annotations or detections, no file, and no list "
                f"({', '.join(EXCLUSIONS)}).{hint and ' ' + hint}"
            )
    return excluded


def _listed(path: str, known: Collection[str], remarks: list[str]) -> set[str]:
    """The names in a file."""
    text = read_text(path, "list of videos")
    names: object = text.splitlines()
    if text.lstrip().startswith(("[", "{", '"')):
        names = parse_json(text, path, "list of videos")
    if not isinstance(names, list):
        raise DataError(f"{path}: expected a list of videos: a JSON list of names, or one name per line.")
    names = [name for name in names if not isinstance(name, str) or name.strip()]
    names = [part for name in names for part in _parts(name, known)]
    listed = {require_name(name, path, "video") for name in names}
    unknown = listed.difference(known)
    if len(unknown) == len(listed):
        cause = likely_cause(sorted(unknown), known)
        raise ConfigError(
            f"exclude: {path} lists {len(listed)} videos, and none of them is in the annotations or "
            f"detections.{cause and ' ' + cause}"
        )
    if unknown:
        remarks.append(
            f"{len(unknown)} of the {len(listed)} videos that {path} lists are in neither the annotations "
            "nor the detections."
        )
    return listed


def _parts(name: object, known: Collection[str]) -> Iterable[object]:
    """The cells of a line that is no name itself but has commas."""
    if not isinstance(name, str) or "," not in name or clean_text(name).strip() in known:
        return (name,)
    return [part for part in (cell.strip(' \t"') for cell in name.split(",")) if part]
