"""From a video file to features and back to a picture: reading, optical flow, I3D networks, rendering.

from aicl_fast.video import extract_features, open_network
features = extract_features("clip.mp4", rgb=open_network("i3d_rgb.npz"))

Each name below is imported from its module when it is first used. Reading and flow need the extra
``video`` (PyAV and OpenCV).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aicl_fast.data.feature_file import Recipe, VideoFeatures, load_video_features, save_video_features
    from aicl_fast.detect_features import detect_features
    from aicl_fast.video.extract import extract_features
    from aicl_fast.video.flow import FlowAlgorithm
    from aicl_fast.video.networks import SegmentNetwork, open_network
    from aicl_fast.video.reader import VideoInfo, probe, read_frames
    from aicl_fast.video.render import render_video
    from aicl_fast.video.transform import Transform

__all__ = [
    "FlowAlgorithm",
    "Recipe",
    "SegmentNetwork",
    "Transform",
    "VideoFeatures",
    "VideoInfo",
    "detect_features",
    "extract_features",
    "load_video_features",
    "open_network",
    "probe",
    "read_frames",
    "render_video",
    "save_video_features",
]

_HOME = {
    "FlowAlgorithm": "video.flow",
    "Recipe": "data.feature_file",
    "SegmentNetwork": "video.networks",
    "Transform": "video.transform",
    "VideoFeatures": "data.feature_file",
    "VideoInfo": "video.reader",
    "detect_features": "detect_features",
    "extract_features": "video.extract",
    "load_video_features": "data.feature_file",
    "open_network": "video.networks",
    "probe": "video.reader",
    "read_frames": "video.reader",
    "render_video": "video.render",
    "save_video_features": "data.feature_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aicl_fast.video' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"aicl_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
