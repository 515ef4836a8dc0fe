"""The network behind staging buffers: on the host, and as a CUDA graph where there is a GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.kernels import pack_two_branch  # noqa: E402
from aicl_fast.kernels.runner import _KEPT, TwoBranchRunner  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_scores_on_the_host_equal_the_network(device: str, assert_close) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = load_config("thumos14", overrides=["rgb_width=32", "flow_width=32", "segments=40"])
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    weights = pack_two_branch(net.state_dict(), torch.float32, device=device)
    runner = TwoBranchRunner(weights, net.gamma, length=40, topk=5)
    rng = np.random.default_rng(0)
    for batch in (1, 3, 1):
        features = rng.random((batch, 40, 64), dtype=np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(features))
        video = expected.CAS.gather(1, expected.A_score.topk(5, dim=1).indices).mean(1).softmax(1)
        for given in (features, torch.from_numpy(features).to(device)):
            scores = runner(given)
            wanted = (expected.A_score, video, expected.A, expected.A_ca)
            for name, ours, theirs in zip(scores._fields, scores, wanted, strict=True):
                assert_close(torch.from_numpy(ours), theirs, 2e-3, name)
    with pytest.raises(ValueError, match=r"expected shape \(B, 40, 64\), got \(1, 41, 64\)"):
        runner(np.zeros((1, 41, 64), np.float32))


def _runner(device: str) -> TwoBranchRunner:
    config = load_config("thumos14", overrides=["rgb_width=8", "flow_width=8", "segments=20"])
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    weights = pack_two_branch(net.state_dict(), torch.float32, device=device)
    return TwoBranchRunner(weights, net.gamma, length=20, topk=5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_only_the_batch_sizes_that_were_used_last_are_kept(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    runner = _runner(device)
    features = np.random.default_rng(0).random((12, 20, 16), dtype=np.float32)
    first = runner(features[:1])
    for batch in (*range(2, _KEPT + 1), 1, 11, 12):
        found = runner(features[:batch])
        np.testing.assert_allclose(found.scores[0], first.scores[0], rtol=0, atol=1e-5)
    # The first was used again and stays; the second and third, used longest ago, are gone.
    assert sorted(runner._stages) == [1, *range(4, _KEPT + 1), 11, 12]
    again = runner(features[:2])
    np.testing.assert_allclose(again.scores[0], first.scores[0], rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_a_capture_while_another_thread_allocates() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    runner, stop = _runner("cuda"), threading.Event()

    def allocate() -> None:
        while not stop.is_set():
            torch.empty(1 << 26, device="cuda")
            torch.cuda.empty_cache()

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        for batch in range(1, 6):
            assert np.isfinite(runner(np.zeros((batch, 20, 16), np.float32)).scores).all()
    finally:
        stop.set()
        thread.join()


@pytest.mark.gpu
def test_runners_on_two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    features = np.random.default_rng(0).random((1, 20, 16), dtype=np.float32)
    first, second = (_runner(f"cuda:{i}")(features) for i in range(2))
    np.testing.assert_allclose(first.scores, second.scores, rtol=0, atol=1e-5)
