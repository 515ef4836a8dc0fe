"""Which detection takes which annotation, at every tIoU threshold at once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Ties = Literal["activitynet", "file"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 15
"""Detections matched at a time: bounds memory, and later ones meet fewer free annotations."""
_CHUNK = 1 << 21
"""Pairs whose tIoU is computed at a time: bounds memory where one video has very many detections."""


class Pairs(NamedTuple):
    """Overlapping detections and annotations, by detection, then in the order in which it wants them."""

    detection: Integers
    """(P,) index into the detections."""
    annotation: Integers
    """(P,) index into the annotations."""
    tiou: Floats
    """(P,) in (0, 1]."""


def temporal_iou(first: Floats, second: Floats) -> Floats:
    """tIoU of (..., 2) segments, broadcast; 0 where both have no length or one ends before it starts."""
    inner = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    inner = np.maximum(inner, 0.0)
    with np.errstate(over="ignore"):  # an infinite length has a tIoU of 0
        outer = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - inner
    result: Floats = np.divide(inner, outer, out=np.zeros_like(outer), where=outer > 0)
    return result


def overlapping_pairs(
    group: Integers,
    segments: Floats,
    gt_group: Integers,
    gt_segments: Floats,
    minimum: Floats,
    ties: Ties,
) -> Pairs:
    """Every detection with every annotation of its group whose tIoU is at least ``minimum`` and above 0.

    Args:
        group: (D,) of each detection (a video, or a video and class).
        segments: (D, 2) seconds.
        gt_group: (G,) of each annotation, ascending.
        gt_segments: (G, 2) seconds.
        minimum: (G,) tIoU below which an annotation's pairs are skipped; infinite for none.
        ties: which of several annotations of the same tIoU comes first. ``file``: the earlier one.
            ``activitynet``: as :func:`network_order` leaves them.
    """
    groups = int(group.max(initial=-1)) + 1
    # Candidates first: annotations of the group by start, from the first that ends after the detection's
    # start to the last that starts before its end. A time offset by its group makes one sorted axis of all
    # groups; the margin outweighs its rounding, and tIoU decides below. Times far outside all annotations are
    # brought near, lest one of them makes the axis so long that rounding outweighs seconds.
    order = np.lexsort((gt_segments[:, 0], gt_group))
    order = order[np.isfinite(minimum[order])]
    opening = _openings(gt_group[order], groups)
    low, high = float(gt_segments.min(initial=0.0)), float(gt_segments.max(initial=0.0))
    margin = max(1e-3, 4 * float(np.spacing((high - low + 4.0) * len(opening))))
    span = high - low + 4.0 + 4 * margin
    near = np.clip(segments, low - 1.0, high + 1.0)
    offset, gt_offset = group * span - low, gt_group[order] * span - low
    starts = gt_segments[order, 0] + gt_offset
    # Ends need not be sorted by start; the latest end so far is.
    ends = np.maximum.accumulate(gt_segments[order, 1] + gt_offset)
    first = np.searchsorted(ends, near[:, 0] + offset - margin, side="left")
    last = np.searchsorted(starts, near[:, 1] + offset + margin, side="right")
    # Neither may leave the group, whatever was rounded.
    first = np.maximum(first, opening[group])
    last = np.minimum(last, opening[group + 1])
    width = np.maximum(last - first, 0)

    before = np.concatenate([[0], np.cumsum(width)])
    parts: list[tuple[Integers, Integers, Floats]] = []
    begin = 0
    while begin < len(group):
        stop = max(begin + 1, int(np.searchsorted(before, before[begin] + _CHUNK, side="right")) - 1)
        counts = width[begin:stop]
        detection = np.repeat(np.arange(begin, stop), counts)
        place = np.arange(before[begin], before[stop])
        annotation = order[place + np.repeat(first[begin:stop] - before[begin:stop], counts)]
        tiou = temporal_iou(segments[detection], gt_segments[annotation])
        keep = (tiou >= minimum[annotation]) & (tiou > 0)
        parts.append((detection[keep], annotation[keep], tiou[keep]))
        begin = stop
    if not parts:
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty(0))
    detection, annotation, tiou = (np.concatenate(column) for column in zip(*parts, strict=True))
    wish = np.lexsort((annotation, -tiou, detection))
    detection, annotation, tiou = detection[wish], annotation[wish], tiou[wish]
    equal = (detection[1:] == detection[:-1]) & (tiou[1:] == tiou[:-1])
    if ties == "activitynet" and equal.any():
        tied = np.unique(detection[1:][equal])
        opening = _openings(gt_group, groups)
        row, rank = _tied_places(segments, gt_segments, opening[group], opening[group + 1], tied)
        # Only the tied detections' pairs move, and each among its own.
        several = np.nonzero(row[detection] >= 0)[0]
        column = annotation[several] - opening[group[detection[several]]]
        preference = -rank[row[detection[several]], column]
        wish = several[np.lexsort((preference, -tiou[several], detection[several]))]
        annotation[several], tiou[several] = annotation[wish], tiou[wish]
    return Pairs(detection, annotation, tiou)


def _tied_places(
    segments: Floats, gt_segments: Floats, first: Integers, last: Integers, tied: Integers
) -> tuple[Integers, Integers]:
    """:func:`network_order` of the detections ``tied``, whose groups are first … last.

    Groups share one size: values of infinity at the end are never moved, and so change nothing.

    Returns:
        (D,) row in the second array, -1 for the other detections; (R, 2^m) place of each annotation of the
        group in ascending order.
    """
    width = (last - first)[tied]
    size = 1 << (int(width.max()) - 1).bit_length()
    column = np.arange(size)
    rank = np.empty((len(tied), size), dtype=np.int64)
    step = max(1, _CHUNK // size)
    for begin in range(0, len(tied), step):
        rows = slice(begin, begin + step)
        inside = column < width[rows, None]
        index = np.where(inside, first[tied[rows], None] + column, 0)
        tiou = np.where(inside, temporal_iou(segments[tied[rows], None], gt_segments[index]), np.inf)
        order = network_order(tiou)
        np.put_along_axis(rank[rows], order, np.broadcast_to(column, order.shape), axis=1)
    row = np.full(len(segments), -1, dtype=np.int64)
    row[tied] = np.arange(len(tied))
    return row, rank


def network_order(values: Floats) -> Integers:
    """Each row's argsort as a bitonic sorting network leaves it, equal values included.

    ActivityNet's evaluator tries annotations in the order of ``tiou.argsort()[::-1]``. numpy's argsort is not
    stable: on processors with AVX2 or AVX-512 it runs this network for up to 256 values, on others a
    quicksort that leaves equal values in another order, and the evaluator's mAP changes with it. The network
    is spelled out here so that the published numbers come out the same on every machine.

    Args:
        values: (R, 2^m), filled up with infinity.
    Returns:
        (R, 2^m) indices.
    """
    rows, size = values.shape
    keys = values.copy()
    index = np.broadcast_to(np.arange(size), values.shape).copy()
    block = 2
    while block <= size:
        # Two sorted halves are merged: compared mirrored first, then at half the distance each time.
        distance = block // 2
        mirrored = True
        while distance:
            shape = (rows, size // (2 * distance), 2, distance)
            step = -1 if mirrored else 1
            pairs = [
                (halves[:, :, 0], halves[:, :, 1, ::step])
                for halves in (keys.reshape(shape), index.reshape(shape))
            ]
            swap = pairs[0][0] > pairs[0][1]
            for low, high in pairs:
                lower = np.where(swap, high, low)
                high[...] = np.where(swap, low, high)
                low[...] = lower
            distance //= 2
            mirrored = False
        block *= 2
    return index


def _openings(sorted_groups: Integers, groups: int) -> Integers:
    """(groups + 1,) where each group begins, and after it the next."""
    counts = np.bincount(sorted_groups, minlength=groups)
    return np.concatenate([[0], np.cumsum(counts)])


def match(
    group: Integers, segments: Floats, gt_group: Integers, gt_segments: Floats, tious: Floats, ties: Ties
) -> Integers:
    """The detection that each annotation goes to.

    The definition is sequential: by falling score, each detection takes the free annotation of the highest
    tIoU, if that reaches the threshold.

    Args:
        group, segments, gt_group, gt_segments, ties: as :func:`overlapping_pairs` has them, detections by
            falling score.
        tious: (K,) thresholds.
    Returns:
        (K, G) index of the detection, or D where the annotation is free.
    """
    size = len(group)
    holder = np.full((len(tious), len(gt_group)), size, dtype=np.int64)
    for begin in range(0, size, _BLOCK):
        # An annotation that a better detection has is out of reach; below its lowest free threshold, too.
        lowest = np.where(holder == size, tious[:, None], np.inf).min(axis=0)
        rows = slice(begin, begin + _BLOCK)
        pairs = overlapping_pairs(group[rows], segments[rows], gt_group, gt_segments, lowest, ties)
        _bid(pairs, begin, min(_BLOCK, size - begin), tious, holder)
    return holder


def _bid(pairs: Pairs, begin: int, size: int, tious: Floats, holder: Integers) -> None:
    """Match the detections of one block, the first of which has the number ``begin``, into ``holder``.

    This is deferred acceptance, which works on all detections and thresholds together: each bids for its
    best annotation, an annotation keeps the bid of the best score, and who loses bids for the next. Since
    all annotations rank detections the same way, it ends in the sequential definition's matching.
    """
    annotations = holder.shape[1]
    flat = holder.reshape(-1)
    starts = np.searchsorted(pairs.detection, np.arange(size))
    # A detection's pairs fall in tIoU, so those that reach a threshold are its first ones.
    ends = np.concatenate(
        [starts + np.bincount(pairs.detection[pairs.tiou >= t], minlength=size) for t in tious]
    )
    position = np.tile(starts, len(tious))
    bidders = np.nonzero(position < ends)[0]  # flat index of (threshold, detection of the block)
    while len(bidders):
        threshold, detection = np.divmod(bidders, size)
        lot = threshold * annotations + pairs.annotation[position[bidders]]
        former = flat[lot] - begin
        np.minimum.at(flat, lot, begin + detection)
        won = flat[lot] == begin + detection
        # Whoever held a lot that was won leaves it to the winner. A lot has one winner, so none comes twice.
        outbid = (former < size) & won
        losers = np.concatenate([bidders[~won], threshold[outbid] * size + former[outbid]])
        position[losers] += 1
        bidders = losers[position[losers] < ends[losers]]


def true_positives(holder: Integers, num_detections: int) -> npt.NDArray[np.bool_]:
    """(K, D) true where the detection has an annotation, from :func:`match`."""
    hit = np.zeros((holder.shape[0], num_detections + 1), dtype=np.bool_)
    hit[np.arange(holder.shape[0])[:, None], holder] = True
    return hit[:, :-1]
