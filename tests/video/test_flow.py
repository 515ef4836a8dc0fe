"""Optical flow: known motions are found, from any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("av")

from aicl_fast.errors import ConfigError, DataError  # noqa: E402
from aicl_fast.video.flow import Flow, FlowAlgorithm, gray  # noqa: E402
from aicl_fast.video.transform import Transform  # noqa: E402


def texture(shift: tuple[int, int] = (0, 0), size: int = 96) -> npt.NDArray[np.uint8]:
    """A smooth random picture, its content moved by (dx, dy)."""
    noise = np.random.default_rng(0).integers(0, 256, (size + 40, size + 40)).astype(np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    left, top = 20 - shift[0], 20 - shift[1]
    return np.ascontiguousarray(smooth[top : top + size, left : left + size])


@pytest.mark.parametrize("algorithm", ["tvl1", "dis"])
@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (-2, 1)])
def test_a_known_motion_is_found(algorithm: FlowAlgorithm, shift: tuple[int, int]) -> None:
    flow = Flow(algorithm)(texture(), texture(shift))
    assert flow.shape == (96, 96, 2)
    assert flow.dtype == np.float32
    inner = flow[12:-12, 12:-12].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inner, axis=0), shift, atol=0.25)


def test_threads_do_not_share_a_solver() -> None:
    flow = Flow("dis")
    shifts = [(dx, dy) for dx in range(-2, 3) for dy in (-1, 1)] * 3
    alone = [flow(texture(), texture(shift)) for shift in shifts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda shift: flow(texture(), texture(shift)), shifts))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="tvl1 or dis, got 'raft'"):
        Flow("raft")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((240, 320), (256, 341)),
        ((320, 240), (341, 256)),
        ((256, 340), (256, 340)),
        ((1080, 1920), (256, 455)),
    ],
)
def test_the_short_side_becomes_256(size: tuple[int, int], resized: tuple[int, int]) -> None:
    transform = Transform()
    image = transform.resized(np.zeros((*size, 3), np.uint8))
    assert image.shape == (*resized, 3)
    assert transform.cropped(image).shape == (224, 224, 3)


def test_the_crop_is_the_middle() -> None:
    rows, columns = np.mgrid[:256, :340]
    cropped = Transform().cropped(np.stack([rows, columns], axis=-1))
    assert cropped[0, 0].tolist() == [16, 58]
    assert cropped[-1, -1].tolist() == [239, 281]


def test_bilinear_between_pixels() -> None:
    """The value half-way between two pixels is their mean, and pixel centres are at one half."""
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 100
    wide = Transform(short_side=8, crop=8).resized(image)
    assert wide[0, :, 0].tolist() == [0, 0, 0, 25, 75, 100, 100, 100]


def test_the_long_side_has_an_end() -> None:
    image = np.zeros((2, 128, 3), np.uint8)
    assert Transform().resized(image).shape == (256, 16384, 3)
    for absurd, words in (
        ((2, 129), "129 x 2 pixels would be 16512 x 256"),
        ((17000, 2), "would be 256 x 2176000"),
    ):
        with pytest.raises(DataError, match=rf"{words} with .* may be 16384, 64 times the short one"):
            Transform().resized(np.zeros((*absurd, 3), np.uint8))


def test_a_crop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="crop <= short_side"):
        Transform(short_side=200)


def test_luminance() -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert gray(image).tolist() == [[76, 150, 29]]  # ITU-R BT.601
