"""Decoding in C++, by the module that was compiled at installation."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, cast

from aicl_fast.config import DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.decode.inputs import Array
from aicl_fast.decode.nms import compiled_mode


@functools.cache
def native_module() -> ModuleType | None:
    """The compiled module, or None where it was not built."""
    try:
        return importlib.import_module("aicl_fast.kernels._native")
    except ImportError:
        return None


class NativeBackend:
    """Fixed settings and class names. It checks what it is given, and quicker than Python could.

    Attributes:
        run: Detections of one :class:`~aicl_fast.decode.inputs.Input`, given as six arguments; None for input
            that is not checked and would have to be, and where a score is not finite.
        run_batch: the same of many, on so many threads.
    """

    checks_input = True

    def __init__(self, config: DecodeConfig, names: Array) -> None:
        decoder = cast(Any, native_module()).Decoder(
            thresholds=[float(threshold) for threshold in config.thresholds],
            class_threshold=float(config.class_threshold),
            upscale=config.upscale,
            merge_gap=float(config.merge_gap),
            min_seconds=float(config.min_seconds),
            outer_ratio=float(config.outer_ratio),
            video_score_weight=float(config.video_score_weight),
            density_weight=float(config.density_weight),
            nms=compiled_mode(config.nms),
            nms_tiou=float(config.nms_tiou),
            nms_sigma=float(config.nms_sigma),
            nms_added_seconds=float(config.nms_added_seconds),
            nms_across_classes=config.nms_across_classes,
            min_score=float(config.min_score),
            max_detections=config.max_detections,
            classes=names,
            result=Detections,
        )
        self.run = decoder.decode
        self.run_batch = decoder.decode_batch
