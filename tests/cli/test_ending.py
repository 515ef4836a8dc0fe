"""How a command ends: by a signal, where nobody reads what it prints, and by what the system refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.cli.ending import exit_code
from aicl_fast.errors import DataError

COMMAND = str(Path(sys.executable).with_name("aicl-fast"))

_WAITING = """
import sys, time
from pathlib import Path
from aicl_fast import config
from aicl_fast.cli import main
from aicl_fast.data import labels
from aicl_fast.train import synthetic
from aicl_fast.files import atomic_path

def wait(*_, **__):
    with atomic_path("result.json") as file:
        file.write_text("half of it")
        print("now", flush=True)
        time.sleep(60)

config.load_config = synthetic.SyntheticConfig.with_values = labels.read_labels = wait
main()
"""
_TRAIN = (["train", "-d", "data"], "run the same command with --resume to resume from the last checkpoint")
_OTHERS = [
    (["synthetic", "data"], "files already complete are kept"),
    (["annotations", "table.csv", "-o", "data"], "files already complete are kept"),
]


def _ended_by(
    arguments: list[str], number: int, folder: Path, before: Callable[[], Any] | None = None
) -> tuple[int, str]:
    command = [sys.executable, "-c", _WAITING, *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert list(folder.iterdir())
        process.send_signal(number)
        _, text = process.communicate(timeout=50)
    return process.returncode, text


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "terminated"),
        (signal.SIGHUP, "the terminal was closed"),
    ],
)
@pytest.mark.parametrize(("arguments", "left"), [_TRAIN, *_OTHERS], ids=lambda value: str(value)[:12])
def test_a_signal_ends_a_command_in_order(
    number: int, word: str, arguments: list[str], left: str, tmp_path: Path
) -> None:
    # Whatever whoever started this test ignores.
    before = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    code, text = _ended_by(arguments, number, tmp_path, before)
    assert (code, text) == (128 + number, f"aicl-fast: {word}; {left}\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_what_a_script_started_in_the_background(tmp_path: Path) -> None:
    before = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    code, text = _ended_by(_TRAIN[0], signal.SIGINT, tmp_path, before)
    assert (code, text) == (130, f"aicl-fast: interrupted; {_TRAIN[1]}\n")
    assert not list(tmp_path.iterdir())


def test_nohup_is_heeded_and_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    found = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen: list[Any] = []
    try:
        assert exit_code(lambda: seen.extend(map(signal.getsignal, numbers))) == 0
        assert callable(seen[0])
        assert callable(seen[1])
        assert seen[2] is signal.SIG_IGN
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2 + [signal.SIG_IGN]
    finally:
        for number, handler in zip(numbers, found, strict=True):
            signal.signal(number, handler)


class OutOfMemoryError(RuntimeError):
    """As torch's own is named."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("x.npy: is no array\x1b[31m.\nSecond line"), "x.npy: is no array\ufffd[31m.\nSecond line"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a.json"), "out/a.json: No space left on"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), b"out"), "out: Permission denied"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "aicl-fast: Input/output error"),
        (MemoryError("of 9 GB"), "there is not enough memory (of 9 GB)"),
        (OutOfMemoryError("CUDA out of memory"), "there is not enough memory (CUDA out of memory)"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), "there is not enough memory"),
        (RecursionError("maximum"), "nested too deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_meet_is_a_sentence(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_code(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("a bug"), ValueError("a bug"), OSError("odd")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises(type(error)):
        exit_code(command)


def _shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env={**os.environ, **environment, "AICL": COMMAND},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ('"$AICL" --help | head -1', (0, 1)),
        ('"$AICL" info --preset demo | true', (0, 1)),
        ('"$AICL" --help >&-', (0,)),
        ('"$AICL" nothing 2>&-', (2,)),
        ('"$AICL" info --preset demo >&- 2>&- <&-', (0,)),
        ('"$AICL" info --preset demo > /dev/full', (2,)),
    ],
)
def test_nobody_reads_what_is_printed(line: str, codes: tuple[int, ...], tmp_path: Path) -> None:
    assert _shell(line, tmp_path).returncode in codes


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "iso8859-1"])
def test_a_terminal_that_is_not_utf_8(encoding: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = "video,label,start,end,split\na,举重,,,train\nb,举重,1,5,test\n"
    table.write_text(rows, encoding="utf-8")
    done = _shell('"$AICL" annotations labels.csv -o data', tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "classes: ??" in done.stdout
    assert "举重" in json.dumps(json.loads((tmp_path / "data" / "gt.json").read_text()), ensure_ascii=False)
    assert _shell('"$AICL" detect --help', tmp_path, PYTHONIOENCODING=encoding).returncode == 0
    done = _shell('"$AICL" evaluate 举重.json x', tmp_path, PYTHONIOENCODING=encoding)
    assert "??.json: the annotation file does not exist" in done.stderr


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A run's folder with annotations and detections of one video."""
    run = tmp_path / "run"
    run.mkdir()
    truth = {"v": {"subset": "test", "annotations": [{"label": "Jump", "segment": [1, 2]}]}}
    (run / "gt.json").write_text(json.dumps({"database": truth}))
    found = {"results": {"v": [{"label": "Jump", "segment": [1, 2], "score": 0.5}]}}
    (run / "detections.json").write_text(json.dumps(found))
    return run


@pytest.mark.parametrize("place", ["-", "/dev/stdout"])
@pytest.mark.parametrize(
    "command", ["evaluate run/gt.json run/detections.json", "compare run run", "report run"]
)
def test_a_result_on_standard_output_is_there_alone(
    judged: Path, command: str, place: str, tmp_path: Path
) -> None:
    done = _shell(f'"$AICL" {command} -o {place}', tmp_path)
    assert done.returncode == 0, done.stderr
    if command.startswith("report"):
        assert done.stdout.startswith("<!doctype html>")
        assert done.stdout.rstrip().endswith("</html>")
    else:
        assert json.loads(done.stdout)
    assert done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_detections_on_standard_output(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = tiny_model.with_suffix(".onnx")
    done = _shell(f'"$AICL" detect {model} {tiny_dataset} -o -', tmp_path)
    assert len(json.loads(done.stdout)["results"]) == 3
    assert "detections in 3 recordings" in done.stderr


def test_standard_output_takes_one_file(judged: Path, tmp_path: Path) -> None:
    both = '"$AICL" evaluate run/gt.json run/detections.json -o - --detad -'
    assert "--detad, --out: standard output takes one file" in _shell(both, tmp_path).stderr
    closed = _shell('"$AICL" evaluate run/gt.json run/detections.json -o - >&-', tmp_path)
    assert closed.returncode == 2
    assert "-: standard output is closed. Name a file" in closed.stderr


def test_more_memory_is_allowed_by_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aicl_fast.cli import COMMANDS
    from aicl_fast.cli.group import build
    from aicl_fast.limits import MAX_UNPACKED, require_size

    monkeypatch.setenv(MAX_UNPACKED, "1")
    with pytest.raises(DataError, match=r"--max-unpacked 2048MiB"):
        require_size(2 << 30, 100, "x.npz", "its arrays")
    build(COMMANDS)(["--max-unpacked", "3GiB", "info", "--preset", "demo"], standalone_mode=False)
    require_size(2 << 30, 100, "x.npz", "its arrays")
    assert "'4x'" in _shell('"$AICL" --max-unpacked 4x info', tmp_path).stderr
    assert "--max-unpacked" in _shell('"$AICL" --help', tmp_path).stdout
