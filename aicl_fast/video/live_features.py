"""Features of segments that wait for it to be known whether they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from aicl_fast.data.features import Floats
from aicl_fast.processors import processor_count
from aicl_fast.video.extract import Extraction, Segment
from aicl_fast.video.flow import Gray

if TYPE_CHECKING:
    from typing import Self


class Later:
    """A flow that is computed when it is known that its segment is used."""

    def __init__(self, function: Callable[[Gray, Gray], Floats], before: Gray, after: Gray) -> None:
        self._call = function, before, after
        self._future: Future[Floats] | None = None

    @classmethod
    def submit(cls, function: Callable[[Gray, Gray], Floats], before: Gray, after: Gray, /) -> Later:
        """In place of a pool's."""
        return cls(function, before, after)

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Have it computed, once."""
        if self._future is None:
            function, before, after = self._call
            self._future = pool.submit(function, before, after)

    def result(self) -> Floats:
        """The flow, when it is there."""
        function, before, after = self._call
        return function(before, after) if self._future is None else self._future.result()


class SegmentFeatures:
    """Runs the networks of a plan on segments of a live source: a context, for its threads.

    Args:
        plan: the networks.
    """

    def __init__(self, plan: Extraction) -> None:
        self._plan = plan
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        workers = self._plan.workers or processor_count()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="flow")
        self._stack.callback(self._pool.shutdown, cancel_futures=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, segments: Sequence[Segment]) -> Floats:
        """(N, D) features: those of both streams side by side."""
        for each in segments:
            for flow in each.flow:
                assert isinstance(flow, Later)
                flow.start(self._pool)
        found = self._plan.run(segments)
        return np.concatenate([found[name] for name in self._plan.networks], axis=1)
