"""What the network says about one recording, before it is decoded into detections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Scores:
    """The curves of one recording over its T sampled segments.

    Attributes:
        fused: (T, C) float32, A_score: what localisation thresholds.
        video_scores: (C,) float32, softmax of the video logits: which classes the recording contains.
        actionness: (T,) float32, A of the class-aware branch.
        actionness_agnostic: (T,) float32, A_ca of the class-agnostic branch.
        num_segments: n, the recording's own number of segments, before sampling.
        fps: the recording's frames per second.
        frames_per_segment: from one segment's start to the next one's; with ``fps`` these give seconds.
        classes: C class names.
        name: the recording's name.
    """

    fused: npt.NDArray[np.float32]
    video_scores: npt.NDArray[np.float32]
    actionness: npt.NDArray[np.float32]
    actionness_agnostic: npt.NDArray[np.float32]
    num_segments: int
    fps: float
    frames_per_segment: int
    classes: tuple[str, ...]
    name: str = "video"

    @property
    def duration(self) -> float:
        """Seconds that the recording's segments cover."""
        return self.num_segments * self.frames_per_segment / self.fps

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """(T,) start of each sampled segment in seconds: i·duration/T."""
        length = len(self.actionness)
        return np.arange(length, dtype=np.float64) * (self.duration / length)
