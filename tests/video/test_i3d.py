"""I3D against the same network written out plainly; padding, folding, longer clips, and real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.video.i3d import CHANNELS, I3D, DeployedI3D, fold_batch_norm  # noqa: E402
from aicl_fast.video.networks import kinetics_classes, open_network  # noqa: E402

ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)


def same(x, kernel, stride):
    """Zeros before and after, until ceil(size / stride) windows fit; the odd one after."""
    amounts = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = 0
        while (size + total - k) // s + 1 < -(-size // s):
            total += 1
        amounts.append((total // 2, total - total // 2))
    return F.pad(x, [each for pair in amounts[::-1] for each in pair])


def assert_near(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 2e-5 * b.abs().max()


def plain(state, x):
    """The network as the paper's figure has it, every padding made explicit, BatchNorm as it is defined."""

    def unit(name, x, stride=ONE):
        w = state[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, w.shape[2:], stride), w, stride=stride)
        scale, shift, mean, var = (
            state[f"{name}.bn.{each}"].view(-1, 1, 1, 1)
            for each in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    def mixed(name, x):
        return torch.cat(
            [
                unit(f"{name}.b0", x),
                unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                unit(f"{name}.b2b", unit(f"{name}.b2a", x)),
                unit(f"{name}.b3b", pool(x, THREE, ONE)),
            ],
            1,
        )

    x = pool(unit("Conv3d_1a_7x7", x, TWO), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    x = pool(mixed("Mixed_3c", mixed("Mixed_3b", x)), THREE, TWO)
    for letter in "bcdef":
        x = mixed(f"Mixed_4{letter}", x)
    x = pool(x, TWO, TWO)
    x = mixed("Mixed_5c", mixed("Mixed_5b", x)).mean((3, 4))
    windows = [x[:, :, i : i + 2].mean(2) for i in range(max(1, x.shape[2] - 1))]
    features = torch.stack(windows).mean(0)
    head = state["logits.conv3d.weight"].flatten(1)
    return features, features @ head.T + state["logits.conv3d.bias"]


@pytest.mark.parametrize(
    ("stream", "frames", "height", "width"),
    [("rgb", 16, 64, 64), ("flow", 16, 64, 64), ("rgb", 21, 45, 50), ("flow", 1, 7, 33), ("rgb", 40, 32, 47)],
)
@torch.no_grad()
def test_it_is_the_network_of_the_paper(random_i3d, stream, frames, height, width) -> None:
    net = random_i3d(stream)
    clips = torch.rand(2, CHANNELS[stream], frames, height, width) * 2 - 1
    expected = plain(net.state_dict(), clips)
    found = net(clips)
    assert found.features.shape == (2, 1024)
    assert found.logits.shape == (2, 7)
    assert 0.05 < expected[0].std() < 20  # neither vanished nor exploded, so that a difference would show
    assert_near(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@torch.no_grad()
def test_folding_changes_rounding_only(random_i3d, layout) -> None:
    net = random_i3d("rgb")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold_batch_norm(net)
    assert not any("bn" in name for name in folded.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    clips = (torch.rand(1, 3, 16, 64, 64) * 2 - 1).contiguous(memory_format=layout)
    assert_near(folded(clips), net(clips))


@torch.no_grad()
def test_raw_clips_are_normalised_inside(random_i3d) -> None:
    raw = torch.randint(0, 256, (1, 16, 40, 40, 3), dtype=torch.uint8)
    net = random_i3d("rgb")
    expected = net(raw.permute(0, 4, 1, 2, 3) / 255 * 2 - 1)
    assert_near(DeployedI3D(net)(raw), expected)
    flow = torch.randn(1, 16, 40, 40, 2) * 25
    net = random_i3d("flow")
    expected = net(flow.permute(0, 4, 1, 2, 3).clip(-20, 20) / 20)
    assert_near(DeployedI3D(net)(flow), expected)
    assert not torch.allclose(expected.logits, net(flow.permute(0, 4, 1, 2, 3) / 20).logits, atol=1e-3)


@torch.no_grad()
def test_bfloat16_rounds_convolutions_only(random_i3d) -> None:
    # Small: without bfloat16 products a processor takes a minute for more.
    raw = torch.randint(0, 256, (1, 16, 32, 32, 3), dtype=torch.uint8)
    expected = DeployedI3D(random_i3d("rgb"))(raw)[0]
    narrow = DeployedI3D(random_i3d("rgb"), torch.bfloat16)
    kinds = {name: value.dtype for name, value in narrow.state_dict().items()}
    assert {dtype for name, dtype in kinds.items() if "logits" not in name} == {torch.bfloat16}
    features, logits = narrow(raw)
    assert features.dtype == logits.dtype == torch.float32
    apart = (features - expected).abs().max() / expected.abs().max()
    assert 1e-4 < apart < 5e-2


@pytest.mark.parametrize("shape", [(3, 16, 64, 64), (1, 2, 16, 64, 64), (1, 16, 64, 64, 3)])
def test_clips_of_another_shape_are_refused(shape) -> None:
    with pytest.raises(DataError, match=r"rgb takes \(N, 3, frames, height, width\), got"):
        I3D("rgb", classes=2)(torch.zeros(shape))


def test_real_clips_with_real_weights(shared_data: Path) -> None:
    """The middle segment of a clip is of what the clip is of, among 400 classes."""
    names = ("clean and jerk", "arm wrestling")
    clips = np.stack(
        [middle_segment(shared_data / "i3d" / f"{name.replace(' ', '_')}.mp4") for name in names]
    )
    network = open_network(shared_data / "i3d" / "i3d_kinetics400_rgb.npz")
    assert (network.stream, network.name) == ("rgb", "i3d-rgb")
    logits = network.classify(clips)
    assert [kinetics_classes()[each] for each in logits.argmax(1)] == list(names)
    assert (1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1) > 0.9).all()  # the best one's softmax


def middle_segment(path: Path) -> np.ndarray:
    """16 frames from the middle, the short side 256, the centre 224 of it."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    pictures = []
    for frame in frames[len(frames) // 2 - 8 : len(frames) // 2 + 8]:
        scale = 256 / min(frame.width, frame.height)
        picture = frame.reformat(
            round(frame.width * scale), round(frame.height * scale), "rgb24"
        ).to_ndarray()
        top, left = (size // 2 - 112 for size in picture.shape[:2])
        pictures.append(picture[top : top + 224, left : left + 224])
    return np.stack(pictures)
