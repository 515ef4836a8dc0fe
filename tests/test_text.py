"""Text from outside is safe to print, draw and store."""

from __future__ import annotations

import pytest

from aicl_fast.errors import ConfigError, DataError, ModelError
from aicl_fast.limits import MAX_UNPACKED, parse_size, reading, require_size
from aicl_fast.text import clean_lines, clean_text, error_text, parse_json, require_name


@pytest.mark.parametrize(
    ("came", "clean"),
    [
        ("plain", "plain"),
        ("sit [down] $x$ 举重 🏃‍♀️", "sit [down] $x$ 举重 🏃‍♀️"),
        ("a\ud800b", "a\ufffdb"),
        ("\x1b[31mred\x07\x9b", "\ufffd[31mred\ufffd\ufffd"),
        ("two\r\nlines\tand\u2028more", "two  lines and more"),
        ("\u202egnp.exe\u2066x\u2069", "gnp.exex"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_clean_text(came: str, clean: str) -> None:
    assert clean_text(came) == clean
    assert clean_text(clean) == clean


def test_clean_lines_keeps_the_lines() -> None:
    assert clean_lines("a\x1b\nb\u202e") == "a\ufffd\nb"


def test_an_exception_as_one_short_line() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")

    assert error_text(ValueError("one\x1b\ntwo")) == "one\ufffd"
    assert error_text(KeyError()) == "KeyError"
    assert error_text(Broken()) == "Broken"
    assert len(error_text(ValueError("x" * 5000))) == 200


def test_json_is_read_clean_and_each_key_once() -> None:
    assert parse_json('\ufeff{"a\\u202e": ["\\ud800", {"b": "\\u001b"}]}', "f", "list") == {
        "a": ["\ufffd", {"b": "\ufffd"}]
    }
    with pytest.raises(DataError, match="f: the list has the key 'a' twice in one object"):
        parse_json('{"x": {"a": 1, "a": 1}}', "f", "list")
    with pytest.raises(DataError, match="has the key 'é' twice"):
        parse_json('{"\\u00e9": 1, "e\\u0301": 2}', "f", "list")
    with pytest.raises(DataError, match="line 2, column 1"):
        parse_json("[1,\n", "f", "list")
    with pytest.raises(DataError, match="nested too deep"):
        parse_json("[" * 100_000, "f", "list")
    with pytest.raises(DataError, match=r"not valid JSON: .*digits"):
        parse_json("1" * 5000, "f", "list")


def test_whatever_a_parser_raises_names_the_file() -> None:
    for error in (
        ZeroDivisionError("by zero"),
        UnicodeError("odd"),
        LookupError(),
        MemoryError(),
        RecursionError(),
    ):
        with (
            pytest.raises(ModelError, match=r"^m\.onnx: "),
            reading("m.onnx", "model file", error=ModelError),
        ):
            raise error
    with pytest.raises(DataError, match=r"^ours$"), reading("m.onnx", "model file", error=ModelError):
        raise DataError("ours")
    with pytest.raises(KeyboardInterrupt), reading("m.onnx", "model file"):
        raise KeyboardInterrupt


def test_memory_in_proportion_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAX_UNPACKED, raising=False)
    require_size(64 << 20, 10, "f", "its arrays")
    require_size(16 << 30, 1 << 30, "f", "its arrays")
    with pytest.raises(DataError, match=r"f: its arrays would take 65 MiB .* --max-unpacked 65MiB"):
        require_size(65 << 20, 10, "f", "its arrays")
    monkeypatch.setenv(MAX_UNPACKED, "1G")
    require_size(1 << 30, 10, "f", "its arrays")
    with pytest.raises(ModelError, match="1,025 MiB"):
        require_size(1025 << 20, 10, "f", "its arrays", error=ModelError)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("12", "1k", "4 GiB", "2MB")] == [12, 1024, 4 << 30, 2 << 20]
    with pytest.raises(ConfigError, match="AICL_FAST_MAX_UNPACKED: expected a size as 4GiB"):
        parse_size("much")


@pytest.mark.parametrize(
    ("came", "name"),
    [
        ("video_1", "video_1"),
        ("class/video", "class/video"),
        (" cafe\u0301.v2 ", "caf\u00e9.v2"),
        ("...a", "...a"),
        ("ab:c", "ab:c"),
        ("x" * 240, "x" * 240),
    ],
)
def test_names_of_videos(came: str, name: str) -> None:
    assert require_name(came, "gt.json", "video") == name


@pytest.mark.parametrize(
    ("came", "fault"),
    [
        ("", "it is empty"),
        (" \u200b", "it is empty"),
        ("/etc/passwd", "absolute"),
        ("C:x", "absolute"),
        ("..\\x", "backslash"),
        ("a\0b", "no text"),
        ("a\ud800", "no text"),
        ("..", "empty, . or .."),
        ("a/../../b", "empty, . or .."),
        ("./a", "empty, . or .."),
        ("a//b", "empty, . or .."),
        ("a/", "empty, . or .."),
        ("a/.\u200b./b", "empty, . or .."),
        ("é" * 121, "more than 240 bytes"),
        (None, "is None; expected text"),
        (7, "is 7; expected text"),
    ],
)
def test_what_cannot_name_a_video(came: object, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as refused:
        require_name(came, "gt.json", "video")
    assert str(refused.value).startswith("gt.json: ")
