"""An output format: one line per recording."""

from __future__ import annotations

from collections.abc import Mapping

from aicl_fast import Detections


def text(detections: Mapping[str, Detections]) -> str:
    return "".join(f"{video}: {len(found)}\n" for video, found in detections.items())
