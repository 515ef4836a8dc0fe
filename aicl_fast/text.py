"""Text that comes from outside: made safe to print, draw and store, in one Unicode form."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aicl_fast.errors import AiclError, DataError

_UNSAFE = re.compile(
    "(?P<space>[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029])"
    "|(?P<control>[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff])"
    "|[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
"""White space that breaks a line; what is no character to show; marks that hide or turn text around."""
_LOOSE = re.compile(r"[\s_-]+")
_DRIVE = re.compile("[A-Za-z]:")
_LONGEST = 200
_LONGEST_NAME = 240
"""Bytes of a name of a video: what file systems allow, 255, less endings and what a temporary file adds."""


def clean_text(text: str) -> str:
    """Text that a terminal, a picture and a page can show as it is.

    Line breaks and tabs become spaces. Control and escape characters and lone surrogates become U+FFFD.
    Bidirectional and invisible marks are removed. The rest is in Unicode's form NFC, so that two spellings of
    one name are equal.
    """
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _UNSAFE.sub(_replacement, text))


def _replacement(match: re.Match[str]) -> str:
    if match["space"]:
        return " "
    return "\ufffd" if match["control"] else ""


def clean_lines(text: str) -> str:
    """The same of every line of a text."""
    return "\n".join(map(clean_text, text.split("\n")))


def clean_values(value: Any) -> Any:
    """A JSON or TOML value with every text in it, keys too, as :func:`clean_text` gives it.

    Raises:
        DataError: two keys of one object are equal then.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_values(item) for item in value]
    if isinstance(value, dict):
        return _unique([(clean_text(key), clean_values(item)) for key, item in value.items()])
    return value


def require_name(name: object, source: object, what: str) -> str:
    """The name of a video, clean and without space around it; files are named after it.

    It may have folders in it, as ``class/video``, and stays inside the folder that it is looked for in.

    Args:
        source: the file or argument, for messages.
        what: what it names, as a noun phrase ("video").
    Raises:
        DataError: no text, empty, an absolute path, a part that is empty, ``.`` or ``..``, a backslash, a
            control character, or longer than a file's name can be.
    """
    if not isinstance(name, str):
        raise DataError(f"{source}: the name of a {what} is {name!r}; expected text.")
    clean = clean_text(name).strip()
    parts = clean.split("/")
    fault = ""
    if not clean:
        fault = "it is empty"
    elif clean.startswith("/") or _DRIVE.match(clean):
        fault = "it is an absolute path"
    elif "\\" in clean:
        fault = "it has a backslash"
    elif "\ufffd" in clean:
        fault = "it has a character that is no text"
    elif any(part.strip() in ("", ".", "..") for part in parts):
        fault = "it has a part that is empty, . or .."
    elif max(len(part.encode()) for part in parts) > _LONGEST_NAME:
        fault = f"it has more than {_LONGEST_NAME} bytes"
        clean = clean[:_LONGEST_NAME] + "…"
    if fault:
        raise DataError(
            f"{source}: {clean!r} cannot name a {what}: {fault}. Expected a name such as 'video_1', or "
            "'folder/video_1' inside the data set."
        )
    return clean


def require_label(
    label: object, source: object, what: str = "label", *, error: type[AiclError] = DataError
) -> str:
    """The name of a class, clean, without space around it and with single spaces in it.

    Args:
        source: the file or argument, for messages.
        what: what it is, as a noun phrase.
        error: what is raised.
    Raises:
        AiclError: no text, or empty.
    """
    clean = " ".join(clean_text(label).split()) if isinstance(label, str) else ""
    if not clean:
        raise error(f"{source}: a {what} is {label!r}; expected the name of a class, as text.")
    return clean


def loose_form(name: str) -> str:
    """A name without what is easily mistyped: case, spaces, underscores and hyphens."""
    return _LOOSE.sub("", name).casefold()


def as_number(value: object) -> float:
    """A number in JSON, or one that is written there as a string.

    Raises:
        TypeError, ValueError, OverflowError: it is none; true and false are none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def as_segment(value: object) -> tuple[float, float]:
    """``[start, end]`` in JSON. Raises as :func:`as_number`, and for anything but a list of two."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    start, end = value
    return as_number(start), as_number(end)


def counted(number: int, noun: str) -> str:
    """``1 video``, ``3 videos``."""
    return f"{number} {noun}{'s'[: number != 1]}"


def listed(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{separator.join(names[:most])}{more}"


def short_text(text: str, longest: int = 80) -> str:
    """A name for a picture: clean, and cut where it is too long to be read there."""
    clean = clean_text(text[: 2 * longest])
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def error_text(error: BaseException) -> str:
    """The first line of an exception's message, or its type, short enough for a message of ours."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a foreign exception's own __str__ may fail on the bytes it complains of
        lines = []
    first = clean_text(lines[0]) if lines else ""
    return (first or type(error).__name__)[:_LONGEST]


def parse_json(text: str, source: object, what: str) -> Any:
    """The value of a JSON text, every string in it clean.

    Args:
        text: may begin with a byte-order mark.
        source: the file or argument, for messages.
        what: what it is, as a noun phrase ("annotation file").
    Raises:
        DataError: not JSON (with line and column), an object that has a key twice, nesting too deep to be
            read, or a number of too many digits.
    """
    text = text.removeprefix("\ufeff")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        # Without an escape in it, ASCII is clean: JSON allows no control character in a string.
        return value if text.isascii() and "\\" not in text else clean_values(value)
    except AiclError as error:
        raise DataError(f"{source}: the {what} {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}: the {what} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}. If it was cut off while being copied, copy it again."
        ) from error
    except RecursionError as error:
        raise DataError(f"{source}: the {what} is nested too deep to be read.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"{source}: the {what} is not valid JSON: {error_text(error)}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(
            f"has the key {clean_text(twice)!r} twice in one object. Which one counts cannot be told: remove "
            "one of them."
        )
    return found


def named_videos(entries: Mapping[str, Any], source: object) -> Iterator[tuple[str, Any]]:
    """A JSON object's (video, value), each name as :func:`require_name` gives it.

    Raises:
        DataError: a name that cannot name a file, or two that are equal then.
    """
    seen: set[str] = set()
    for key, value in entries.items():
        video = require_name(key, source, "video")
        if video in seen:
            raise DataError(f"{source}: names the video {video!r} twice. Remove one of the two.")
        seen.add(video)
        yield video, value
