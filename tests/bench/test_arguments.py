"""Numbers on the suites' command lines, and errors of a suite that runs as a process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from aicl_fast.bench import module_of
from aicl_fast.bench.harness import arguments
from aicl_fast.errors import DataError


@pytest.mark.parametrize("text", ["", "1,,2", "0", "eight", "-1"])
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected sizes such as 1,8,64"):
        arguments.batches(text)


def test_numbers() -> None:
    assert arguments.batches("1,8") == (1, 8)
    assert (arguments.count("3"), arguments.count_or_none("0")) == (3, 0)
    assert arguments.seconds("0.5") == 0.5
    for parse, wrong in (
        (arguments.count, ("0", "-1", "x", "1.5")),
        (arguments.count_or_none, ("-1", "x")),
        (arguments.seconds, ("-1", "nan", "inf", "x")),
    ):
        for text in wrong:
            with pytest.raises(argparse.ArgumentTypeError, match="expected a"):
                parse(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("suite", "given"),
    [
        ("decode", ["--rounds", "0"]),
        ("evaluate", ["--rounds", "0"]),
        ("load", ["--rounds", "0"]),
        ("detect", ["--rounds", "-1"]),
        ("engines", ["--threads", "0"]),
        ("train", ["--batch", "0"]),
        ("video", ["--batch", "x"]),
        ("video", ["--threads", "0"]),
        ("all", ["--minutes", "nan"]),
    ],
)
def test_a_number_without_a_meaning_is_told(
    suite: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main = pytest.importorskip(module_of(suite)).main
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert f"error: argument {given[0]}: expected " in capsys.readouterr().err


def test_an_error_of_ours_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise DataError("x.json: is not there")

    with pytest.raises(SystemExit, match="2"):
        arguments.program(main)
    assert capsys.readouterr().err == "error: x.json: is not there\n"
    with pytest.raises(SystemExit, match="1"):
        arguments.program(lambda: 1)


def test_the_command_line_of_the_package(tmp_path: Path) -> None:
    def run(*given: str) -> tuple[int, str]:
        command = [sys.executable, "-P", "-m", "aicl_fast.bench", *given]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stderr

    for given in ((), ("speed",)):
        code, text = run(*given)
        assert (code, text.splitlines()) == (2, [text.strip()])
        assert text.startswith("error: expected one of detect, engines, ")
    code, text = run("report", "none.json")
    assert code == 2
    assert text.startswith("error: none.json: the result file does not exist.")
