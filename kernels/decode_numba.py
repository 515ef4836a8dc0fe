"""Fused scores to detections in numba: runs above thresholds, outer-inner contrast, and NMS.

The curve of a class is linear between two segments, so no grid is evaluated. A run's ends are where the
line crosses a threshold, and sums over grid points are differences of a closed-form prefix sum: O(T) work
for all thresholds together. The C++ in ``native/`` computes scores and times by the same operations in the
same order, and a naive version on the grid is in ``tests/decode/naive.py``.

Kernels are serial and release the interpreter lock. Threads are the caller's: numba's default threading
layer aborts a process that enters it from two Python threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

DECAY_ONCE, HARD, GAUSSIAN = 0, 1, 2
NEAREST = 10
"""Proposals that a density is the mean of."""
SLACK = 1e-6
"""Of a grid point: times that are equal but for rounding are equal."""


def _kernel(function: F) -> F:
    """Compile on the first call and cache on disk, where there is a folder to cache in."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # Neither the package's folder nor the user's cache folder can be written to: compile every time.
        return cast(F, numba.njit(nogil=True)(function))


def _inlined(function: F) -> F:
    """For the innermost steps: a call would pass, and count references to, every array each time."""
    return cast(F, numba.njit(inline="always")(function))


@_kernel
def gather(scores: Any, columns: Any, largest: float, curves: Any) -> bool:
    """Copy ``columns`` of (T, C) ``scores`` into (P, T) float64 ``curves``; false if a score is not usable.

    Usable is from -``largest`` to ``largest``. All of ``scores`` is looked at, not only the columns: a NaN
    anywhere means that the network went wrong.
    """
    length, width = scores.shape
    good = 0
    for t in range(length):
        for c in range(width):
            good += abs(scores[t, c]) <= largest
    for p in range(len(columns)):
        c = columns[p]
        for t in range(length):
            curves[p, t] = scores[t, c]
    return bool(good == length * width)


@_inlined
def _crossing(value: float, slope: float, threshold: float, weight: Any, top: int, rising: bool) -> int:
    """First step r in 1..top of a cell whose grid point is inside (at or above the threshold), or outside.

    Args:
        rising: whether the cell rises, from outside to inside.
    """
    # Division lands within a step or so; the grid's own arithmetic decides.
    guess = (threshold - value) / slope * len(weight)
    r = 1
    if guess > 1.0:
        r = top if guess >= top else math.ceil(guess)
    while r > 1 and (value + slope * weight[r - 1] >= threshold) == rising:
        r -= 1
    while r < top and (value + slope * weight[r] >= threshold) != rising:
        r += 1
    return r


@_kernel
def _levels(curve: Any, end: float, thresholds: Any, level: Any, starts: Any) -> None:
    """How many thresholds each segment reaches, and how many runs each threshold will have.

    Args:
        curve: (T,) scores.
        end: the curve at its very last grid point.
        thresholds: (K,) ascending.
        level: (T + 1,) out; the last is for ``end``.
        starts: (K,) out, runs a threshold.
    """
    length = len(curve)
    level[:] = 0
    for k in range(len(thresholds)):
        threshold = thresholds[k]
        for t in range(length):
            level[t] += curve[t] >= threshold
        level[length] += end >= threshold
        starts[k] = level[0] > k
    for t in range(length):
        for k in range(level[t], level[t + 1]):
            starts[k] += 1


@_kernel
def _runs(
    curve: Any,
    slope: Any,
    level: Any,
    thresholds: Any,
    weight: Any,
    cursor: Any,
    first: Any,
    stop: Any,
    rank: Any,
    coming: Any,
) -> None:
    """Write the runs [first, stop) of every threshold, in grid points, from ``cursor[k]`` on.

    Within a cell the grid's values never turn, even rounded, so a threshold is crossed there at most once
    and only if the levels of its two ends differ.

    On the way it notes which run of each threshold is the next to end: NMS looks its neighbours up there.
    ``rank`` (T,) is out: how many segments before this one have a crossing. ``coming`` (T + 1, K) is out, by
    that number.
    """
    length, upscale = len(curve), len(weight)
    for k in range(level[0]):
        first[cursor[k]] = 0
    changes = 0
    for t in range(length):
        rank[t] = changes
        before, after = level[t], level[t + 1]
        if before == after:
            continue
        coming[changes] = cursor
        changes += 1
        # The grid ends before the point that would follow the last segment.
        top = upscale if t + 1 < length else upscale - 1
        for k in range(before, after):
            r = _crossing(curve[t], slope[t], thresholds[k], weight, top, True)
            first[cursor[k]] = t * upscale + r
        for k in range(after, before):
            r = _crossing(curve[t], slope[t], thresholds[k], weight, top, False)
            stop[cursor[k]] = t * upscale + r
            cursor[k] += 1
    coming[changes] = cursor
    for k in range(level[length]):
        stop[cursor[k]] = length * upscale
        cursor[k] += 1


@_kernel
def _prefix(curve: Any, slope: Any, upscale: int, prefix: Any) -> None:
    """``prefix`` (T,) out: the sum of all grid points before each segment.

    Four parts of the curve are summed side by side, then joined: an addition waits for the one before it.
    """
    length = len(curve)
    half = (upscale - 1) * 0.5
    part = length // 4
    for p in range(4):
        total = 0.0
        for t in range(p * part, (p + 1) * part):
            prefix[t] = total
            total += upscale * curve[t] + slope[t] * half
        if p == 0:
            before = total
        else:
            for t in range(p * part, (p + 1) * part):
                prefix[t] += before
            before += total
    for t in range(4 * part, length):
        prefix[t] = before
        before += upscale * curve[t] + slope[t] * half


@_inlined
def _sum_before(x: int, curve: Any, slope: Any, prefix: Any, triangle: Any) -> float:
    """Sum of the grid points before point ``x``, by the segment of the last of them."""
    upscale = len(triangle) - 1
    t = (x - 1) // upscale if x > 0 else 0
    m = x - t * upscale
    return float(prefix[t] + m * curve[t] + slope[t] * triangle[m])


@_kernel
def _join(first: Any, stop: Any, layer: Any, gap: int, shortest: int, rank: Any, coming: Any) -> int:
    """Make one of runs of a threshold that are at most ``gap`` apart, then drop those below ``shortest``.

    Args:
        first, stop: (N,) runs; in place.
        layer: (P·K + 1,) as :func:`propose` gives it; in place.
        gap, shortest: grid points.
        rank, coming: what `_runs` noted; in place.
    Returns:
        The number of runs that are left.
    """
    low, kept = 0, 0
    # Where each run went: those that are dropped, to the next.
    place = np.empty(len(first) + 1, np.int64)
    for k in range(len(layer) - 1):
        high = layer[k + 1]
        layer[k] = kept
        while low < high:
            begin, end, j = first[low], stop[low], low + 1
            while j < high and first[j] - end <= gap:
                end = stop[j]
                j += 1
            place[low:j] = kept
            if end - begin >= shortest:
                first[kept], stop[kept] = begin, end
                kept += 1
            low = j
    layer[len(layer) - 1] = kept
    place[len(first)] = kept
    rows, length = rank.shape
    for p in range(rows):
        for i in range(rank[p, length - 1] + 1):
            for k in range(coming.shape[2]):
                coming[p, i, k] = place[coming[p, i, k]]
    return kept


@_inlined
def _offer(longest: Any, length: int) -> bool:
    """Insert ``length`` into the ``longest``, in descending order; false if it is not one of them."""
    i = len(longest) - 1
    if length <= longest[i]:
        return False
    while i > 0 and longest[i - 1] < length:
        longest[i] = longest[i - 1]
        i -= 1
    longest[i] = length
    return True


@_kernel
def _add_density(first: Any, stop: Any, layer: Any, weight: float, score: Any) -> None:
    """Add ``weight`` times each proposal's mean tIoU with its nearest ones to its score, in place.

    Two proposals of a class are apart, or one holds the other, and their tIoU is the ratio of their lengths.
    So the nearest are among those that hold a proposal, shortest first, and the longest within it.

    Args:
        first, stop: (N,) grid points of all proposals.
        layer: (K + 1,) one class's.
        weight: of the density.
        score: (N,) in place.
    """
    begin = layer[0]
    n = layer[len(layer) - 1] - begin
    nearest = min(NEAREST, n - 1)
    if nearest < 1:
        return
    length = stop[begin : begin + n] - first[begin : begin + n]
    parent = np.full(n, -1)
    for k in range(1, len(layer) - 1):
        holder = layer[k - 1]
        for j in range(layer[k], layer[k + 1]):
            while stop[holder] < stop[j]:
                holder += 1
            parent[j - begin] = holder - begin
    within = np.zeros((n, nearest), np.int64)
    for j in range(n - 1, -1, -1):
        if parent[j] >= 0:
            longest = within[parent[j]]
            if _offer(longest, length[j]):
                for i in range(nearest):
                    if not _offer(longest, within[j, i]):
                        break
    for j in range(n):
        inner, outer = 0, parent[j]
        total = 0.0
        for _ in range(nearest):
            inwards = within[j, inner] / length[j]
            outwards = length[j] / length[outer] if outer >= 0 else 0.0
            if inwards >= outwards:
                total += inwards
                inner += 1
            else:
                total += outwards
                outer = parent[outer]
        score[begin + j] += weight * (total / nearest)


@_inlined
def _points(seconds: float, step: float, slack: float) -> float:
    """Grid points of ``step`` seconds in ``seconds``, at most one more than a grid can have."""
    return min(2147483647.0, seconds / step + slack)


@_inlined
def _segment(begin: float, rate: float, length: int) -> int:
    """The segment at ``begin`` seconds, or the one before: what rounding could pass over is looked at."""
    place = begin * rate - 1e-3
    return int(min(place, length - 1.0)) if place > 0.0 else 0


@_inlined
def _alive(following: Any, j: int) -> int:
    """The first box from ``j`` on that is still in the pool. Walked links are shortened."""
    while following[j] != j:
        following[j] = following[following[j]]
        j = following[j]
    return j


@_kernel
def _merge_sort(score: Any, order: Any, buffer: Any) -> None:
    """Sort ``order`` by descending score; what is equal stays in its order."""
    n = len(order)
    source, target = order, buffer
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for k in range(low, high):
                if i < middle and (j >= high or not score[source[i]] < score[source[j]]):
                    target[k] = source[i]
                    i += 1
                else:
                    target[k] = source[j]
                    j += 1
        source, target = target, source
        width *= 2
    for k in range(n):
        order[k] = source[k]


@_kernel
def _order(score: Any, order: Any, buffer: Any) -> None:
    """Sort ``order`` by descending score; what is equal stays in its order.

    Radix sort on the leading bits, where nearly all scores differ, then insertion on the whole score: neither
    asks the processor to guess the outcome of a comparison.
    """
    n = len(order)
    if n > 32:
        value = np.empty(n)
        for i in range(n):
            # -0.0 and 0.0 are equal, and must stay in their order.
            value[i] = score[order[i]] + 0.0
        bits = value.view(np.int64)
        count = np.zeros((3, 256), np.int64)
        key, other_key = np.empty(n, np.int64), np.empty(n, np.int64)
        for i in range(n):
            high = bits[i] >> 40
            key[i] = high & 0xFFFFFF if high < 0 else ~high & 0x7FFFFF
            for digit in range(3):
                count[digit, (key[i] >> (8 * digit)) & 255] += 1
        source, target = order, buffer
        for digit in range(3):
            shift = 8 * digit
            place = count[digit]
            if place[(key[0] >> shift) & 255] == n:
                continue
            total = 0
            for d in range(256):
                here = place[d]
                place[d] = total
                total += here
            for i in range(n):
                d = (key[i] >> shift) & 255
                target[place[d]] = source[i]
                other_key[place[d]] = key[i]
                place[d] += 1
            source, target = target, source
            key, other_key = other_key, key
        for i in range(n):
            order[i] = source[i]
    # Scores made to agree in their leading bits would make insertion quadratic.
    moves = 0
    for i in range(1, n):
        item = order[i]
        j = i
        while j > 0 and score[order[j - 1]] < score[item]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = item
        moves += i - j
        if moves > 16 * n + 512:
            _merge_sort(score, order, buffer)
            return


@_kernel
def _greedy(
    low: int, high: int, layer: Any, start: Any, end: Any, score: Any, keep: Any, order: Any, following: Any,
    rank: Any, coming: Any, rate: float, mode: int, tiou: float, sigma: float, added: float,
) -> None:  # fmt: skip
    """``decay_once`` and ``hard`` over the layers low..high. Scores and ``keep`` are changed in place.

    A layer is one class at one threshold: its boxes are disjoint and in time order. So a kept box meets
    only the few that overlap it, from a place noted by ``_runs``, and a box that has left the pool is not
    compared again.
    """
    depth = coming.shape[2]
    for i in range(len(order)):
        best = order[i]
        if following[best] != best:
            continue
        following[best] = best + 1
        keep[best] = True
        b_start, b_end = start[best], end[best]
        b_length = b_end - b_start + added
        t = _segment(b_start - added, rate, rank.shape[1])
        for k in range(low, high):
            stop = layer[k + 1]
            j = layer[k]
            # Only boxes that overlap can reach a tIoU above 0; at 0, all do.
            if tiou > 0.0:
                p = k // depth
                j = coming[p, rank[p, t], k - p * depth]
                while j < stop and not end[j] - b_start + added > 0.0:
                    j += 1
            j = _alive(following, j)
            while j < stop:
                if tiou > 0.0 and not b_end - start[j] + added > 0.0:
                    break
                intersection = max(0.0, min(b_end, end[j]) - max(b_start, start[j]) + added)
                union = b_length + (end[j] - start[j] + added) - intersection
                overlap = intersection / union
                if overlap >= tiou:
                    following[j] = j + 1
                    if mode == DECAY_ONCE:
                        score[j] *= math.exp(-overlap * overlap / sigma)
                        keep[j] = True
                j = _alive(following, j + 1)


@_kernel
def _sift_down(heap_score: Any, heap_box: Any, size: int, i: int) -> None:
    score, box = heap_score[i], heap_box[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            heap_score[other] > heap_score[child]
            or (heap_score[other] == heap_score[child] and heap_box[other] < heap_box[child])
        ):
            child = other
        if heap_score[child] > score or (heap_score[child] == score and heap_box[child] < box):
            heap_score[i], heap_box[i] = heap_score[child], heap_box[child]
            i = child
        else:
            break
    heap_score[i], heap_box[i] = score, box


@_kernel
def _gaussian(
    low: int, high: int, layer: Any, start: Any, end: Any, score: Any, keep: Any,
    heap_score: Any, heap_box: Any, following: Any, rank: Any, coming: Any, rate: float,
    sigma: float, added: float, floor: float, most: int,
) -> None:  # fmt: skip
    """Soft-NMS of Bodla et al. 2017 over the layers low..high, ranked again after each box.

    Scores only fall, so the heap may hold old ones: a box that comes up with an old score goes back with
    its present one. Where many boxes overlap, most soon fall below ``floor`` or to 0 and change no more:
    ``following`` passes over these.
    """
    depth = coming.shape[2]
    size = 0
    for j in range(layer[low], layer[high]):
        if score[j] < floor or not score[j] > 0.0:
            following[j] = j + 1
        if not score[j] < floor:
            heap_score[size], heap_box[size] = score[j], j
            size += 1
    left = most if most > 0 else size
    for i in range(size // 2 - 1, -1, -1):
        _sift_down(heap_score, heap_box, size, i)
    while size > 0 and left > 0:
        best = heap_box[0]
        in_pool = not score[best] < floor
        if in_pool and heap_score[0] != score[best]:
            heap_score[0] = score[best]
            _sift_down(heap_score, heap_box, size, 0)
            continue
        size -= 1
        heap_score[0], heap_box[0] = heap_score[size], heap_box[size]
        if size > 0:
            _sift_down(heap_score, heap_box, size, 0)
        if not in_pool:
            continue
        following[best] = best + 1
        keep[best] = True
        left -= 1
        if not score[best] > 0.0:
            # A score below 0 would rise by decaying, and what is left is no greater.
            continue
        b_start, b_end = start[best], end[best]
        b_length = b_end - b_start + added
        t = _segment(b_start - added, rate, rank.shape[1])
        for k in range(low, high):
            stop = layer[k + 1]
            p = k // depth
            j = coming[p, rank[p, t], k - p * depth]
            while j < stop and not end[j] - b_start + added > 0.0:
                j += 1
            j = _alive(following, j)
            while j < stop and b_end - start[j] + added > 0.0:
                intersection = max(0.0, min(b_end, end[j]) - max(b_start, start[j]) + added)
                union = b_length + (end[j] - start[j] + added) - intersection
                overlap = intersection / union
                score[j] *= math.exp(-overlap * overlap / sigma)
                if score[j] < floor or not score[j] > 0.0:
                    following[j] = j + 1
                j = _alive(following, j + 1)


@_kernel
def propose(
    curves: Any, bonus: Any, thresholds: Any, upscale: int, outer_ratio: float, seconds: float,
    merge_gap: float, min_seconds: float, density_weight: float,
) -> tuple[Any, Any, Any, Any, Any, Any]:  # fmt: skip
    """All proposals of P curves over T segments.

    Args:
        curves: (P, T) float64, finite: A_score of each class that is localised.
        bonus: (P,) float64, added to the scores of each class's proposals.
        thresholds: (K,) float64, ascending, each once.
        upscale: grid points per segment.
        outer_ratio: λ.
        seconds: one grid point's duration.
        merge_gap: runs of a threshold that are at most so many seconds apart are one.
        min_seconds: shorter proposals are dropped.
        density_weight: of the mean tIoU with the nearest proposals of the class.
    Returns:
        (P·K + 1,) layers: the proposals of curve p at threshold k are those from layer[p·K + k] to before the
        next; (N,) starts and ends in seconds; (N,) scores; and what `_runs` notes for NMS.
    """
    rows, length = curves.shape
    depth = len(thresholds)
    weight, triangle = np.arange(upscale) / upscale, np.empty(upscale + 1)
    for r in range(upscale + 1):
        triangle[r] = r * (r - 1.0) / (2.0 * upscale)
    slope = np.zeros((rows, length))
    level = np.empty((rows, length + 1), np.int64)
    layer = np.zeros(rows * depth + 1, np.int64)
    for p in range(rows):
        curve = curves[p]
        for t in range(length - 1):
            slope[p, t] = curve[t + 1] - curve[t]
        if length > 1:
            slope[p, length - 1] = slope[p, length - 2]
        end_value = curve[length - 1] + slope[p, length - 1] * weight[upscale - 1]
        _levels(curve, end_value, thresholds, level[p], layer[1 + p * depth : 1 + (p + 1) * depth])
    for k in range(rows * depth):
        layer[k + 1] += layer[k]

    n = layer[rows * depth]
    first, stop = np.empty(n, np.int64), np.empty(n, np.int64)
    rank, coming = np.empty((rows, length), np.int32), np.empty((rows, length + 1, depth), np.int32)
    for p in range(rows):
        cursor = layer[p * depth : (p + 1) * depth].copy()
        _runs(curves[p], slope[p], level[p], thresholds, weight, cursor, first, stop, rank[p], coming[p])
    gap = math.floor(_points(merge_gap, seconds, SLACK))
    shortest = math.ceil(_points(min_seconds, seconds, -SLACK))
    if gap > 0 or shortest > 1:
        n = _join(first, stop, layer, gap, shortest, rank, coming)

    start, end, score = np.empty(n), np.empty(n), np.empty(n)
    prefix = np.empty(length)
    points = length * upscale
    for p in range(rows):
        curve = curves[p]
        _prefix(curve, slope[p], upscale, prefix)
        for j in range(layer[p * depth], layer[(p + 1) * depth]):
            a, b = first[j], stop[j] - 1
            reach = outer_ratio * (b - a + 1)
            low = int(max(0.0, a - reach))
            high = int(min(points - 1.0, b + reach)) + 1
            before = _sum_before(a, curve, slope[p], prefix, triangle)
            behind = _sum_before(b + 1, curve, slope[p], prefix, triangle)
            outer = (a - low) + (high - b - 1)
            value = (behind - before) / (b - a + 1)
            if outer > 0:
                left = before - _sum_before(low, curve, slope[p], prefix, triangle)
                right = _sum_before(high, curve, slope[p], prefix, triangle) - behind
                value -= (left + right) / outer
            score[j] = value + bonus[p]
            start[j] = a * seconds
            end[j] = (b + 1) * seconds
        if density_weight > 0.0:
            _add_density(first, stop, layer[p * depth : (p + 1) * depth + 1], density_weight, score)
    return layer, start, end, score, rank, coming


@_kernel
def best(
    layer: Any, start: Any, end: Any, score: Any, keep: Any, depth: int, most: int
) -> tuple[Any, Any, Any]:
    """The proposals of :func:`propose` that are kept, best first.

    Args:
        layer, start, end, score: as :func:`propose` gives them.
        keep: (N,) which stay.
        depth: K.
        most: detections to return, 0 for all.
    Returns:
        (M,) int64 rows of curves, (M,) float64 scores, (M, 2) float64 segments in seconds; sorted.
    """
    n = len(score)
    order, buffer = np.empty(n, np.int64), np.empty(n, np.int64)
    kept = 0
    for j in range(n):
        order[kept] = j
        kept += keep[j]
    _order(score, order[:kept], buffer)
    if 0 < most < kept:
        kept = most
    out_row, out_score, out_segment = np.empty(kept, np.int64), np.empty(kept), np.empty((kept, 2))
    row_of = np.empty(n, np.int64)
    for p in range((len(layer) - 1) // depth):
        row_of[layer[p * depth] : layer[(p + 1) * depth]] = p
    for i in range(kept):
        j = order[i]
        out_row[i], out_score[i] = row_of[j], score[j]
        out_segment[i, 0], out_segment[i, 1] = start[j], end[j]
    return out_row, out_score, out_segment


@_kernel
def decode(
    curves: Any, bonus: Any, thresholds: Any, upscale: int, outer_ratio: float, seconds: float,
    merge_gap: float, min_seconds: float, density_weight: float,
    mode: int, tiou: float, sigma: float, added: float, floor: float, across: bool, most: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Detections of P curves over T segments: :func:`propose`, a compiled mode of NMS, :func:`best`.

    Args:
        curves, bonus, thresholds, upscale, outer_ratio, seconds, merge_gap, min_seconds, density_weight: as
            :func:`propose`.
        mode: ``DECAY_ONCE``, ``HARD`` or ``GAUSSIAN``.
        tiou: from where the first two suppress.
        sigma: σ of the decay.
        added: seconds added to lengths and intersections.
        floor: lowest score that ``GAUSSIAN`` keeps.
        across: one pool for all classes.
        most: detections to return, 0 for all.
    Returns:
        As :func:`best`.
    """
    rows, depth = len(curves), len(thresholds)
    layer, start, end, score, rank, coming = propose(
        curves, bonus, thresholds, upscale, outer_ratio, seconds, merge_gap, min_seconds, density_weight
    )
    n = len(score)
    rate = 1.0 / (upscale * seconds)
    # A link to the next box still in the pool, itself for one that is.
    following = np.arange(n + 1)
    keep = np.zeros(n, np.bool_)
    order, buffer = np.arange(n), np.empty(n, np.int64)
    groups = 1 if across else rows
    for g in range(groups):
        low, high = (0, rows * depth) if across else (g * depth, (g + 1) * depth)
        if mode == GAUSSIAN:
            _gaussian(
                low, high, layer, start, end, score, keep, np.empty(layer[high] - layer[low]), buffer,
                following, rank, coming, rate, sigma, added, floor, most,
            )  # fmt: skip
        else:
            part = order[layer[low] : layer[high]]
            _order(score, part, buffer)
            _greedy(
                low, high, layer, start, end, score, keep, part, following, rank, coming, rate,
                mode, tiou, sigma, added,
            )  # fmt: skip
    return best(layer, start, end, score, keep, depth, most)
