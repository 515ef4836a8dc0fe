"""The measures as plain loops over plain lists: slow, short, and written from their definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Span = tuple[str, float, float]
"""Label, start, end."""
Found = tuple[str, float, float, float]
"""Label, score, start, end."""


def tiou(start: float, end: float, other_start: float, other_end: float) -> float:
    inner = max(0.0, min(end, other_end) - max(start, other_start))
    outer = (end - start) + (other_end - other_start) - inner
    return inner / outer if outer > 0 else 0.0


def network(values: Sequence[float]) -> list[int]:
    """Argsort by a bitonic network, recursively: sort both halves, mirror, then merge each half."""
    size = 1
    while size < len(values):
        size *= 2
    keys = [*values, *[float("inf")] * (size - len(values))]

    def merge(items: list[int]) -> list[int]:
        if len(items) == 1:
            return items
        half = len(items) // 2
        items = list(items)
        for i in range(half):
            if keys[items[i]] > keys[items[i + half]]:
                items[i], items[i + half] = items[i + half], items[i]
        return merge(items[:half]) + merge(items[half:])

    def sort(items: list[int]) -> list[int]:
        if len(items) == 1:
            return items
        half = len(items) // 2
        items = sort(items[:half]) + sort(items[half:])
        for i in range(half):
            j = len(items) - 1 - i
            if keys[items[i]] > keys[items[j]]:
                items[i], items[j] = items[j], items[i]
        return merge(items[:half]) + merge(items[half:])

    return [index for index in sort(list(range(size))) if index < len(values)]


def average_precision(
    truth: Mapping[str, Sequence[Span]],
    found: Mapping[str, Sequence[Found]],
    label: str,
    threshold: float,
    ties: str = "activitynet",
) -> float:
    """AP of one class at one threshold."""
    total = sum(1 for spans in truth.values() for span in spans if span[0] == label)
    ranked = [
        (score, number, video, start, end)
        for number, (video, name, score, start, end) in enumerate(
            (video, *item) for video, items in found.items() for item in items
        )
        if name == label
    ]
    ranked.sort(key=lambda item: (-item[0], item[1] if ties == "file" else -item[1]))
    taken: set[tuple[str, int]] = set()
    hits: list[bool] = []
    for _, _, video, start, end in ranked:
        spans = [span for span in truth.get(video, ()) if span[0] == label]
        overlaps = [tiou(start, end, span[1], span[2]) for span in spans]
        if ties == "file":
            order = sorted(range(len(spans)), key=lambda i: (-overlaps[i], i))
        else:
            order = network(overlaps)[::-1]
        hit = False
        for index in order:
            if overlaps[index] >= threshold and (video, index) not in taken:
                taken.add((video, index))
                hit = True
                break
        hits.append(hit)
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    return sum(max(precision[i:]) for i in range(len(hits)) if hits[i]) / total


def mean_average_precision(
    truth: Mapping[str, Sequence[Span]],
    found: Mapping[str, Sequence[Found]],
    tious: Sequence[float],
    ties: str = "activitynet",
) -> dict[str, list[float]]:
    """AP by class, at each threshold."""
    labels = sorted({span[0] for spans in truth.values() for span in spans})
    return {label: [average_precision(truth, found, label, t, ties) for t in tious] for label in labels}


def kinds(
    truth: Mapping[str, Sequence[Span]],
    found: Mapping[str, Sequence[Found]],
    threshold: float,
) -> list[tuple[str, float, str, str]]:
    """(label, score, video, kind) of every detection, by falling score, later in the file first."""
    ranked = [
        (score, number, video, label, start, end)
        for number, (video, label, score, start, end) in enumerate(
            (video, *item) for video, items in found.items() for item in items
        )
    ]
    ranked.sort(key=lambda item: (-item[0], -item[1]))
    taken: set[tuple[str, str, int]] = set()
    result = []
    for score, _, video, label, start, end in ranked:
        own = [span for span in truth.get(video, ()) if span[0] == label]
        others = [span for span in truth.get(video, ()) if span[0] != label]
        overlaps = [tiou(start, end, span[1], span[2]) for span in own]
        kind = ""
        for index in network(overlaps)[::-1] if own else []:
            if overlaps[index] >= threshold and (video, label, index) not in taken:
                taken.add((video, label, index))
                kind = "true positive"
                break
        same = max(overlaps, default=0.0)
        other = max((tiou(start, end, span[1], span[2]) for span in others), default=0.0)
        if kind:
            pass
        elif same >= threshold:
            kind = "double detection"
        elif other >= threshold:
            kind = "wrong label"
        elif same >= 0.1:
            kind = "localisation"
        elif other >= 0.1:
            kind = "confusion"
        else:
            kind = "background"
        result.append((label, score, video, kind))
    return result


def recall(
    truth: Mapping[str, Sequence[Span]],
    found: Mapping[str, Sequence[Found]],
    number: int,
    threshold: float,
) -> float:
    """Share of instances that one of the best ``number`` detections of the video reaches."""
    reached = total = 0
    for video, spans in truth.items():
        items = list(enumerate(found.get(video, ())))
        items.sort(key=lambda item: (-item[1][1], -item[0]))
        for _, start, end in spans:
            total += 1
            reached += any(tiou(s, e, start, end) >= threshold for _, (_, _, s, e) in items[:number])
    return reached / total
