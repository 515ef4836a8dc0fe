"""A format of labels: ``video: label from start to end``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aicl_fast.data.labels import Reader, Row

LINE = re.compile(r"(\S+): (\S+) from (\S+) to (\S+)")


def rows(text: str, source: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        yield Row(number, *LINE.fullmatch(line).groups())  # type: ignore[union-attr]


READER = Reader(lambda text: LINE.match(text) is not None, rows)
