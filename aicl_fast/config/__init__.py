"""Settings: every constant of the method.

Five presets exist: ``thumos14``, ``activitynet12``, ``activitynet13`` (the paper's settings), ``demo`` (the
wrist-watch recordings) and ``own`` (one's own data). Any field can be set by ``name=value`` or in a TOML
file, by itself (``lr``) or with its section (``train.lr``).

    >>> from aicl_fast.config import load_config
    >>> load_config("thumos14", overrides=["train.steps=2000", "nms=gaussian"]).train.steps
    2000
"""

from aicl_fast.config.parse import load_config, parse_overrides
from aicl_fast.config.presets import PRESETS
from aicl_fast.config.schema import (
    Config,
    DataConfig,
    DecodeConfig,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    Streams,
    TrainConfig,
    WindowsConfig,
    class_names,
    locate_setting,
)

__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "EvaluateConfig",
    "LossConfig",
    "ModelConfig",
    "Streams",
    "TrainConfig",
    "WindowsConfig",
    "class_names",
    "load_config",
    "locate_setting",
    "parse_overrides",
]
