"""Detections as ActivityNet's JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aicl_fast.data.detections import Detections, activitynet_document


def text(detections: Mapping[str, Detections]) -> str:
    """The document, indented."""
    return json.dumps(activitynet_document(detections), indent=1, allow_nan=False) + "\n"
