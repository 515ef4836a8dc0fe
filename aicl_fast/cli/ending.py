"""How a command ends: by a signal, by a pipe that was closed, or by what the system refuses.

What a user can meet is a sentence; a traceback is left to our own mistakes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aicl_fast.errors import AiclError
from aicl_fast.text import clean_lines, error_text

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _WORDS[signal.SIGHUP] = "the terminal was closed"
KEPT = "files already complete are kept"


class Signalled(KeyboardInterrupt):
    """A signal that ends a command came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Exception):
    """A command was ended by a signal.

    Attributes:
        number: the signal's.
        left: what becomes of the work.
    """

    def __init__(self, error: KeyboardInterrupt, left: str = KEPT) -> None:
        self.number = error.number if isinstance(error, Signalled) else int(signal.SIGINT)
        self.left = left
        super().__init__(self.number, left)

    def __str__(self) -> str:
        return f"{_WORDS[signal.Signals(self.number)]}; {self.left}"


@contextmanager
def resumed_by(how: str) -> Iterator[None]:
    """Within the block, what ends a command is told with how its work is resumed.

    As a decorator it marks a command: ``@resumed_by("the same command resumes")``.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(error, how) from None


@contextmanager
def caught_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP end a command as Ctrl-C does: temporary files are removed.

    A second one ends the process at once. Ignored ones stay ignored, as nohup wants it, but for SIGINT:
    shells ignore it for all that a script starts in the background. Of torchrun's processes the first one
    alone writes; the others end at once.
    """
    if threading.current_thread() is not threading.main_thread() or os.environ.get("RANK", "0") != "0":
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Signalled(number)

    before: dict[signal.Signals, Any] = {}
    for number in _WORDS:
        handler = signal.getsignal(number)
        if number == signal.SIGINT or handler is signal.SIG_DFL:
            before[number] = handler
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Noted:
    """The signal that asked a command to end, if one did."""

    number: int | None = None

    def leave(self, left: str) -> None:
        """End the command as its signal has it; SIGTERM is how a service is stopped, and no failure.

        Raises:
            Interrupted: another signal than SIGTERM came.
        """
        if self.number not in (None, signal.SIGTERM):
            raise Interrupted(Signalled(self.number), left)


@contextmanager
def noted_signals(stop: Callable[[], None]) -> Iterator[Noted]:
    """Within the block, the first signal calls ``stop`` in place of ending the command.

    A second one ends the process at once.
    """
    noted = Noted()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, _: object) -> None:
        noted.number = number
        signal.signal(number, signal.SIG_DFL)
        stop()

    ignored = [number for number in _WORDS if signal.getsignal(number) is signal.SIG_IGN]
    caught = [number for number in _WORDS if number not in ignored or number == signal.SIGINT]
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_streams() -> None:
    """Make standard output and error usable: closed ones lead nowhere, and print ? for what they cannot."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: else the next file that is opened would get what is printed.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def exit_code(command: Callable[[], object]) -> int | str | None:
    """Run a command, say why it failed, and return its exit status: 2 for an error, 130 for Ctrl-C."""
    with caught_signals():
        try:
            code = _explained(command)
            failure = _flushed()
        except BrokenPipeError as error:
            failure = error
        except KeyboardInterrupt as error:
            return _interrupted(Interrupted(error))
    if failure is None:
        return code
    _drop_output()
    if isinstance(failure, BrokenPipeError):
        return 1
    _say(f"what is printed cannot be written ({_reason(failure)})")
    return 2


def _flushed() -> OSError | None:
    """Write what waits to be; why it cannot be."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        return error
    return None


def _explained(command: Callable[[], object]) -> int | str | None:
    try:
        command()
    except SystemExit as end:
        return end.code
    except AiclError as error:
        _say(str(error))
    except Interrupted as interrupted:
        return _interrupted(interrupted)
    except KeyboardInterrupt as error:
        return _interrupted(Interrupted(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno is None:  # a library's own kind
            raise
        name = error.filename if isinstance(error.filename, str | bytes) else None
        place = "" if name is None else f"{os.fsdecode(name)}: "
        _say(f"{place}{_reason(error)}. Check that the files and folders may be used and that there is room.")
    except RecursionError:
        _say("something that was given is nested too deep to be read.")
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        _say(f"there is not enough memory ({error_text(error)}). Take less at a time, or a larger machine.")
    else:
        return 0
    return 2


def _interrupted(interrupted: Interrupted) -> int:
    _say(str(interrupted))
    return 128 + interrupted.number


def _is_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory is lacking; torch has errors of its own, on the CPU and a GPU."""
    name = type(error).__name__
    return (
        isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error)
    )


def _reason(error: OSError) -> str:
    return error.strerror or error_text(error)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stderr.write(f"aicl-fast: {clean_lines(text)}\n")
        sys.stderr.flush()


def _drop_output() -> None:
    """Nothing more is written where nobody reads: at its end the interpreter would complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(null, stream.fileno())
    os.close(null)


__all__ = [
    "KEPT",
    "Interrupted",
    "caught_signals",
    "exit_code",
    "noted_signals",
    "open_streams",
    "resumed_by",
]
