"""Average recall against the number of proposals: how much could be found, labels aside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from aicl_fast.errors import ConfigError
from aicl_fast.evaluate.inputs import DetectionsLike, GroundTruthLike
from aicl_fast.evaluate.matching import Floats, Integers
from aicl_fast.evaluate.protocol import Options, Protocol
from aicl_fast.evaluate.result import Result
from aicl_fast.evaluate.table import build_table

RECALL_TIOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The thresholds of ActivityNet's proposal task."""


@dataclass(frozen=True, eq=False)
class RecallResult(Result):
    """What :func:`average_recall` measures. Fractions.

    Attributes:
        numbers: (N,) proposals a video.
        recall: (N, K) share of the instances that one of the best so many proposals of their video reaches.
        average: (N,) mean over the thresholds: AR@AN.
        tious: (K,) thresholds.
        warnings: what was odd about the input.
    """

    numbers: Integers
    average: Floats
    tious: Floats
    recall: Floats
    warnings: tuple[str, ...]


def average_recall(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    numbers: Iterable[int] = (1, 2, 5, 10, 20, 50, 100),
    tious: Iterable[float] = RECALL_TIOUS,
    *,
    protocol: Protocol | str | None = None,
    **options: Unpack[Options],
) -> RecallResult:
    """Recall of the best proposals of every video, whatever their label.

    An instance is recalled where any of its video's N best detections reaches the threshold; a detection may
    recall several (ActivityNet's proposal task).

    Args:
        numbers: how many of the best detections of a video count, each at least 1.
        tious: K thresholds, in place of the protocol's.

    The others as for ``mean_average_precision``.

    Raises:
        ConfigError: a number or threshold without meaning.
        DataError: as ``mean_average_precision``.
    """
    budget = np.array(list(numbers), dtype=np.int64)
    if not len(budget) or (budget < 1).any():
        raise ConfigError(f"numbers: expected whole numbers of at least 1, got {budget.tolist()}.")
    protocol = Protocol.of(protocol, options, tious)
    thresholds = protocol.thresholds
    table = build_table(ground_truth, detections, protocol)
    # Place of each detection among its video's, by falling score.
    order = np.argsort(table.video, kind="stable")
    first = np.searchsorted(table.video[order], table.video[order])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - first
    pairs = table.pairs(float(thresholds.min()))
    recall = np.zeros((len(budget), len(thresholds)))
    never = np.iinfo(np.int64).max
    for column, threshold in enumerate(thresholds):
        reached = pairs.tiou >= threshold
        earliest = np.full(len(table.gt_video), never)
        np.minimum.at(earliest, pairs.annotation[reached], place[pairs.detection[reached]])
        recall[:, column] = (earliest[None, :] < budget[:, None]).mean(axis=1)
    return RecallResult(budget, recall.mean(axis=1), thresholds, recall, table.warnings)
