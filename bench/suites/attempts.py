"""Tries launch settings in processes of their own: some do not compile, are wrong, hang or end theirs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from aicl_fast.bench.harness.processes import side_by_side, watched
from aicl_fast.bench.harness.tables import in_words
from aicl_fast.bench.suites.kernel_cases import check, finite, reason
from aicl_fast.bench.suites.launches import Swept, fields, launched_with
from aicl_fast.kernels import aot
from aicl_fast.kernels.cases import Spec
from aicl_fast.kernels.harness import Case, Inputs, complete, expected

Found = dict[str, Any]
"""What is known of one candidate of a row."""
_PROCESSES = 8
_PATIENCE = 40
"""Seconds that a candidate may take to compile and to run once at every size; inputs are made before."""
_SAID = "attempt: "
"""How a line of a process begins that is for the one that started it; compilers print pages."""


@dataclass(frozen=True)
class Job:
    """One candidate at all sizes that share its compilation: a row's number and the choice's, of each."""

    at: tuple[tuple[int, int], ...]


def jobs_of(rows: Sequence[Swept]) -> list[Job]:
    """Every choice of every row, the shipped ones too, once for the sizes that it has in common."""
    found: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for number, row in enumerate(rows):
        launch = row.launch
        for choice, settings in enumerate(launch.choices):
            said = in_words(fields(settings))
            key = (launch.module.__name__, launch.attribute, launch.name, row.case.dtype, said)
            found.setdefault(key, []).append((number, choice))
    return [Job(tuple(at)) for at in found.values()]


class Attempts:
    """Tries jobs in this process; what several need is made once."""

    def __init__(self, rows: Sequence[Swept], device: torch.device) -> None:
        self.rows, self.device = rows, device
        self._inputs: dict[Spec, Inputs] = {}
        self._expected: dict[tuple[Spec, int], Sequence[torch.Tensor]] = {}

    def inputs(self, case: Case) -> Inputs:
        """One set."""
        if case.spec not in self._inputs:
            self._inputs[case.spec] = case.make(torch.Generator(self.device).manual_seed(1))
        return self._inputs[case.spec]

    def expected(self, case: Case) -> Sequence[torch.Tensor]:
        """What is right of them."""
        key = case.spec, case.leaves
        if key not in self._expected:
            self._expected[key] = expected(case, self.inputs(case))
            if self.device.type == "cuda":  # several processes share the device
                torch.cuda.empty_cache()
        return self._expected[key]

    def prepare(self, job: Job) -> None:
        """Make what is no candidate's work; what fails is said by :meth:`checked`, which tries it again."""
        for number, _ in job.at:
            with contextlib.suppress(Exception):
                self.expected(self.rows[number].case)

    def checked(self, job: Job) -> list[Found]:
        """The error at each size of a job; why, where it fails."""
        return [self._checked(self.rows[number], choice) for number, choice in job.at]

    def _checked(self, row: Swept, choice: int) -> Found:
        case = row.case
        try:
            inputs, right = self.inputs(case), self.expected(case)
            with launched_with(row.launch, row.launch.choices[choice]):
                error = check(case, case.kernels, inputs, self.device, right)
        except Exception as failure:
            return {"correct": False, "failed": reason(failure)}
        return {"error": finite(error), "correct": error <= case.allowed}

    def recorded(self, jobs: Sequence[Job], target: int) -> list[list[aot.Launch]]:
        """The launches that each job's settings change, without running them; of shipped settings all.

        Args:
            jobs: what will be compiled.
            target: compute capability, times ten.
        """
        wanted = {at for job in jobs for at in job.at}
        wanted |= {(number, 0) for number, _ in wanted}
        runs = [(f"{number} {choice}", self._run(number, choice)) for number, choice in sorted(wanted)]
        made: dict[str, dict[str, aot.Launch]] = {}
        for launch in aot.record(target, runs):
            kinds = [value.dtype for value in launch.arguments if isinstance(value, torch.Tensor)]
            key = f"{launch.kernel.__name__} {sorted(launch.settings.items())} {kinds}"
            made.setdefault(launch.case, {})[key] = launch
        found = []
        for job in jobs:
            changed: dict[str, aot.Launch] = {}
            for number, choice in job.at:
                known = made[f"{number} 0"] if choice else {}
                own = made[f"{number} {choice}"]
                changed |= {key: launch for key, launch in own.items() if key not in known}
            found.append(list(changed.values()))
        return found

    def _run(self, number: int, choice: int) -> Callable[[], object]:
        row = self.rows[number]

        def run() -> None:
            with launched_with(row.launch, row.launch.choices[choice]):
                complete(row.case, row.case.kernels)(self.inputs(row.case))

        return run


def compiled(launches: Sequence[aot.Launch], target: int) -> list[Found]:
    """What each launch takes of a GPU; why, where one does not compile."""
    try:
        usages = [aot.compile_launch(launch, target) for launch in launches]
    except Exception as failure:
        return [{"failed": reason(failure)}]
    return [{**asdict(usage), "fits": usage.fits} for usage in usages]


def attempt(
    numbers: Sequence[int],
    work: Callable[[int], list[Found]],
    prepare: Callable[[int], object] = lambda _: None,
) -> None:
    """What a process does: say which job it begins, and what came of it; ends if the device is lost.

    Args:
        numbers: of the jobs.
        work: a job, within the time that it may take.
        prepare: before that time begins.
    """
    for number in numbers:
        _say({"job": number})
        prepare(number)
        # Nobody handles it: a kernel that hangs ends its process, wherever that waits.
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        try:
            found = work(number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _say({"job": number, "found": found})
        if any("failed" in each for each in found) and not _device_answers():
            return


def _say(value: Mapping[str, Any]) -> None:
    print(f"\n{_SAID}{json.dumps(value)}", flush=True)


def _device_answers() -> bool:
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _heard(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(_SAID):
            with contextlib.suppress(ValueError):  # cut off in the middle
                yield json.loads(line.removeprefix(_SAID))


def in_processes(numbers: Sequence[int], arguments: Sequence[str]) -> dict[int, list[Found]]:
    """What came of jobs, each by its number; of one that ended its process, why.

    Args:
        numbers: of the jobs.
        arguments: of this program, by which it has the same jobs.
    """
    count = max(1, min(_PROCESSES, os.cpu_count() or 1, len(numbers)))
    shares = [numbers[first::count] for first in range(count)]
    found = side_by_side(lambda share, interrupted: _share(share, arguments, interrupted), shares)
    return {number: one for each in found for number, one in each.items()}


def _share(
    numbers: Sequence[int], arguments: Sequence[str], interrupted: threading.Event
) -> dict[int, list[Found]]:
    """One process after the other: what ends one is not tried again, what comes after it is."""
    found: dict[int, list[Found]] = {}
    left = list(numbers)
    while left and not interrupted.is_set():
        command = [sys.executable, "-P", "-m", "aicl_fast.bench", "sweep", *arguments]
        command += ["--attempt", ",".join(map(str, left))]
        code, lines = watched(command, _PATIENCE * (2 + len(left)), quiet=True, interrupted=interrupted)
        begun = None
        for said in _heard(lines):
            begun = None if "found" in said else said["job"]
            if "found" in said:
                found[said["job"]] = said["found"]
        late = code is None or code == -signal.SIGALRM
        why = f"not finished in {_PATIENCE} s" if late else f"its process ended with {code}"
        if begun is not None:
            found[begun] = [{"correct": False, "failed": why}]
        after = [number for number in left if number not in found]
        if after == left:  # none was even begun
            last = next((line.strip() for line in reversed(lines) if line.strip()), why)
            found |= {number: [{"correct": False, "failed": last[:200]}] for number in left}
            after = []
        left = after
    return found
