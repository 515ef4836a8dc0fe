"""The network behind staging buffers: on the host, and as a CUDA graph where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.kernels import pack_two_branch  # noqa: E402
from aicl_fast.kernels._triton_graph import TwoBranchRunner  # noqa: E402
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
