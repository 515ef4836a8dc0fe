"""The kernels as PTX on the CPU: right whether copies and products end early or late, and nothing undefined.

The emulator and what it leaves out are described in ``ptx_emulator/__init__.py``. The kernels run in
processes of their own, because this one has Triton in its interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from ptx_emulator import faults  # noqa: E402
from ptx_emulator.asynchronous import TensorMap, swizzled  # noqa: E402
from ptx_emulator.formats import E4M3, to_bf16, to_e4m3  # noqa: E402
from ptx_emulator.groups import GROUPS  # noqa: E402
from ptx_emulator.kernel import Kernel  # noqa: E402
from ptx_emulator.memory import Memory  # noqa: E402

# Kernels that read by pointers run in the interpreter, too.
_LONG = ("network, whole, pointers", "network, split, pointers")


@pytest.mark.slow
@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=pytest.mark.long if group in _LONG else ()) for group in GROUPS]
)
def test_emulated_kernels_equal_their_references(
    group: str, tmp_path: Path, fork_python: Callable[..., Any]
) -> None:
    for needed in ("torch", "triton.backends.nvidia"):
        try:
            found = importlib.util.find_spec(needed)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{needed} is not installed: nothing compiles the kernels")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(HERE), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    # The folder of a checkout would shadow the installed package.
    done = fork_python("-m", "ptx_emulator.cases", group, env=environment, cwd=tmp_path)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [f"{one['case']}, {one['mode']}: {one['error']}" for one in results if one["error"]]
    assert not wrong, "\n".join(wrong)
    assert done.returncode == 0, done.stderr
    for mode in ("eager", "lazy"):
        ran = {name for one in results if one["mode"] == mode for name in one["kernels"]}
        assert ran == GROUPS[group]


# Small kernels in PTX, each right or wrong in one way: the checks themselves can fail.

_BASE = 0x7000_0000_0000


def _kernel(body: str, threads: int = 64, shared: int = 1024) -> Kernel:
    return Kernel(
        f"""
        .version 8.7
        .target sm_90a
        .address_size 64
        .extern .shared .align 16 .b8 global_smem[];
        .visible .entry small(
            .param .u64 .ptr .global .align 1 small_param_0,
            .param .u32 small_param_1,
            .param .align 64 .b8 small_param_2[128]
        )
        .reqntid {threads}
        {{
            .reg .pred %p<8>;
            .reg .b16 %rs<8>;
            .reg .b32 %r<64>;
            .reg .b64 %rd<16>;
            ld.param.b64 %rd1, [small_param_0];
            ld.param.b32 %r1, [small_param_1];
            mov.u32 %r2, %tid.x;            // %r3, %r4: this thread's word of shared memory and of the tensor
            shl.b32 %r3, %r2, 2;
            cvt.u64.u32 %rd3, %r3;
            add.s64 %rd2, %rd1, %rd3;
            mov.b32 %r4, global_smem;
            add.s32 %r4, %r4, %r3;
            {body}
            ret;
        }}
        """,
        shared,
    )


def _run(
    kernel: Kernel, words: int = 64, *, number: int = 0, grid: int = 1, lazy: bool = False
) -> np.ndarray:
    """The tensor of ``words`` uint32, 0, 1, 2 …, after the kernel; 64 words beyond it are no one's."""
    memory = Memory("global memory", _BASE, 4 * words + 256)
    memory.data[: 4 * words] = np.arange(words, dtype=np.uint32).view(np.uint8)
    memory.allocated[: 4 * words] = memory.initialised[: 4 * words] = True
    kernel.run(memory, (grid,), (_BASE, number, 0), lazy=lazy)
    return memory.data[: 4 * words].view(np.uint32)


_EXCHANGE = """
    st.shared.b32 [%r4], %r2;
    {barrier}
    xor.b32 %r5, %r3, 128;                  // the other warp's word
    mov.b32 %r6, global_smem;
    add.s32 %r6, %r6, %r5;
    ld.shared.b32 %r7, [%r6];
    st.global.b32 [%rd2], %r7;
"""


def test_warps_that_exchange_over_a_barrier_are_right_and_without_one_they_race() -> None:
    assert _run(_kernel(_EXCHANGE.format(barrier="bar.sync 0;"))).tolist() == [*range(32, 64), *range(32)]
    with pytest.raises(faults.Race, match=r"shared memory: read of .* ld\.shared\.b32 %r7, \[%r6\]"):
        _run(_kernel(_EXCHANGE.format(barrier="st.shared.b32 [%r4], %r2;")))


def test_overwriting_what_another_warp_reads_is_a_race() -> None:
    body = _EXCHANGE.format(barrier="bar.sync 0;") + "{barrier} st.shared.b32 [%r4], %r1;"
    _run(_kernel(body.format(barrier="bar.sync 0;")))
    with pytest.raises(faults.Race, match="write to what another warp"):
        _run(_kernel(body.format(barrier="")))


def test_blocks_that_write_different_values_to_one_place_race() -> None:
    body = "mov.u32 %r5, %ctaid.x; st.global.b32 [%rd1], {value};"
    _run(_kernel(body.format(value="%r1")), grid=2)
    with pytest.raises(faults.Race, match="different values"):
        _run(_kernel(body.format(value="%r5")), grid=2)
    with pytest.raises(faults.Race, match="threads of one instruction"):
        _run(_kernel(body.format(value="%r2")))


@pytest.mark.parametrize("access", ["ld.global.b32 %r5, [%rd2];", "st.global.b32 [%rd2], %r2;"])
def test_an_access_beyond_a_tensor_is_found(access: str) -> None:
    _run(_kernel(access), words=64)
    with pytest.raises(faults.OutOfBounds, match="global memory: 4 bytes at 0x7000000000fc"):
        _run(_kernel(access), words=63)
    guarded = f"setp.lt.s32 %p1, %r2, %r1; @%p1 {access}"
    _run(_kernel(guarded), words=63, number=63)
    with pytest.raises(faults.OutOfBounds):
        _run(_kernel("ld.shared.b32 %r5, [%r4+1000];"))


def test_a_misaligned_access_is_found() -> None:
    with pytest.raises(faults.Misaligned):
        _run(_kernel("ld.global.b32 %r5, [%rd2+2];"), words=80)
    with pytest.raises(faults.Misaligned, match="multiples of 8"):
        _run(_kernel("ld.global.v2.b32 {%r5, %r6}, [%rd2];"), words=80)


def test_reading_what_was_never_written_is_found() -> None:
    with pytest.raises(faults.Uninitialised, match="shared memory: 256 bytes"):
        _run(_kernel("ld.shared.b32 %r5, [%r4];"))
    with pytest.raises(faults.Uninitialised, match="register %r9"):
        _run(_kernel("add.s32 %r5, %r9, 1;"))
    memory = Memory("global memory", _BASE, 256)
    memory.allocated[:] = True
    with pytest.raises(faults.Uninitialised, match="global memory"):
        _kernel("ld.global.b32 %r5, [%rd2];").run(memory, (1,), (_BASE, 0, 0), lazy=False)


def test_instructions_that_are_not_known_are_named() -> None:
    with pytest.raises(faults.UnknownInstruction, match=r"atom\.global\.add\.u32 %r5, \[%rd2\], 1"):
        _kernel("atom.global.add.u32 %r5, [%rd2], 1;")
    with pytest.raises(faults.UnknownInstruction, match=r"bar\.sync 1, 32"):
        _kernel("bar.sync 1, 32;")
    with pytest.raises(faults.UnknownInstruction, match=r"add\.sat\.s32"):
        _kernel("add.sat.s32 %r5, %r2, 1;")


def test_a_barrier_that_some_threads_pass_by_is_found() -> None:
    with pytest.raises(faults.Divergence):
        _run(
            _kernel(
                """setp.lt.u32 %p1, %r2, 32;
                @%p1 bra $first;
                bar.sync 0;
                bra.uni $end;
                $first: bar.sync 0;
                $end: mov.b32 %r5, 0;"""
            )
        )
    with pytest.raises(faults.Divergence, match="whole warps"):
        _run(_kernel("setp.lt.u32 %p1, %r2, 7; @%p1 shfl.sync.bfly.b32 %r5, %r2, 1, 31, -1;"))


_COPY = """
    cp.async.ca.shared.global [%r4], [%rd2], 4;
    cp.async.commit_group;
    {wait}
    ld.shared.b32 %r5, [%r4];
    add.s32 %r5, %r5, 1;
    st.global.b32 [%rd2], %r5;
"""


def test_a_copy_that_is_read_before_it_is_waited_for_is_found_when_it_is_late() -> None:
    for lazy in (False, True):
        right = _kernel(_COPY.format(wait="cp.async.wait_group 0;"))
        assert _run(right, lazy=lazy).tolist() == list(range(1, 65))
    early = _kernel(_COPY.format(wait="cp.async.wait_group 1;"))
    _run(early, lazy=False)
    with pytest.raises(faults.Uninitialised):
        _run(early, lazy=True)


# A of ones, B of ones, in 128-byte rows; the sum of 16 products is 16.
_PRODUCT = """
    mov.b32 %r40, 1065369472;               // two bfloat16 ones
    mov.b32 %r41, global_smem;
    shl.b32 %r42, %r2, 4;
    add.s32 %r41, %r41, %r42;
    st.shared.v4.b32 [%r41], {%r40, %r40, %r40, %r40};
    st.shared.v4.b32 [%r41+2048], {%r40, %r40, %r40, %r40};
    st.shared.v4.b32 [%r41+4096], {%r40, %r40, %r40, %r40};
    st.shared.v4.b32 [%r41+6144], {%r40, %r40, %r40, %r40};
    FENCE
    bar.sync 0;
    mov.b32 %r20, 0f00000000; mov.b32 %r21, %r20; mov.b32 %r22, %r20; mov.b32 %r23, %r20;
    mov.b32 %r43, global_smem;
    shr.u32 %r43, %r43, 4;
    cvt.u64.u32 %rd4, %r43;
    or.b64 %rd5, %rd4, 4611686293305294848; // 128-byte swizzle, 1024 bytes from eight rows to the next
    mov.pred %p1, -1;
    ORDER
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r20, %r21, %r22, %r23}, %rd5, %rd5, %p1, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    WAIT
    add.f32 %r24, %r20, %r20;
    st.global.b32 [%rd2], %r24;
    CHANGE
    wgmma.wait_group.sync.aligned 0;
"""


def _product(fence: bool = True, order: bool = True, left: int = 0, change: str = "") -> Kernel:
    text = _PRODUCT.replace("FENCE", "fence.proxy.async.shared::cta;" if fence else "")
    text = text.replace("ORDER", "wgmma.fence.sync.aligned;" if order else "")
    text = text.replace("WAIT", f"wgmma.wait_group.sync.aligned {left};").replace("CHANGE", change)
    return _kernel(text, threads=128, shared=8192)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_a_product_is_found_unfinished_unfenced_or_changed(lazy: bool) -> None:
    assert (_run(_product(), 128, lazy=lazy).view(np.float32) == 32).all()
    with pytest.raises(faults.InFlight, match=r"register %r20 is read before .* add\.f32 %r24, %r20, %r20"):
        _run(_product(left=1), 128, lazy=lazy)
    with pytest.raises(faults.InFlight, match="without a proxy fence"):
        _run(_product(fence=False), 128, lazy=lazy)
    with pytest.raises(faults.InFlight, match=r"no wgmma\.fence followed"):
        _run(_product(order=False), 128, lazy=lazy)
    late = _PRODUCT.replace("FENCE", "fence.proxy.async.shared::cta;").replace("WAIT", "")
    late = late.replace("ORDER", "wgmma.fence.sync.aligned;").replace(
        "add.f32 %r24, %r20, %r20;", "mov.b32 %r24, 0;"
    )
    late = late.replace("CHANGE", "bar.sync 0; st.shared.b32 [%r41], %r2; fence.proxy.async; bar.sync 0;")
    with pytest.raises(faults.InFlight, match="has changed"):
        _run(_kernel(late, threads=128, shared=8192), 128, lazy=lazy)


_BOX = """
    mov.b32 %r10, global_smem;
    add.s32 %r11, %r10, 512;
    setp.eq.s32 %p1, %r2, 0;
    @%p1 mbarrier.init.shared::cta.b64 [%r11], 1;
    bar.sync 0;
    @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], BYTES;
    mov.b64 %rd5, small_param_2;
    mov.b32 %r12, -1;
    @%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes
        [%r10], [%rd5, {%r1, %r12}], [%r11];
    WAIT
    ld.shared.b32 %r5, [%r4];
    setp.ne.b32 %p2, %r5, 0;
    @%p2 bra $end;
    st.shared.b32 [%r4], %r2;
    $end: mov.b32 %r6, 0;
"""
_WAIT = """
    {
    .reg .pred complete;
    waitLoop:
    mbarrier.try_wait.parity.shared::cta.b64 complete, [%r11], 0;
    @!complete bra.uni waitLoop;
    }
"""


def _box(wait: str = _WAIT, size: int = 128, lazy: bool = False) -> None:
    body = _BOX.replace("BYTES", str(size)).replace("WAIT", wait)
    kernel = _kernel(body, threads=32)
    memory = Memory("global memory", _BASE, 256)
    memory.allocated[:] = memory.initialised[:] = True
    tensor = TensorMap(base=_BASE, shape=(4, 8), strides=(16, 1), element=4, box=(4, 8), swizzle=32)
    kernel.run(memory, (1,), (_BASE, 0, tensor), lazy=lazy)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_a_box_that_never_comes_in_full_is_a_deadlock(lazy: bool) -> None:
    _box(lazy=lazy)
    with pytest.raises(faults.Deadlock, match=r"mbarrier|bra\.uni"):
        _box(size=256, lazy=lazy)


def test_a_box_that_is_read_before_it_is_waited_for_is_found_when_it_is_late() -> None:
    with pytest.raises(faults.Uninitialised):
        _box(wait="", lazy=True)


def test_swizzling_exchanges_parts_of_sixteen_bytes_within_rows() -> None:
    for row, period in ((128, 1024), (64, 512), (32, 256)):
        addresses = np.arange(2 * period)
        places = swizzled(addresses, row)
        assert sorted(places) == addresses.tolist()
        assert (places // row == addresses // row).all()
        assert (places % 16 == addresses % 16).all()
    assert swizzled(np.array([128 * 3]), 128).tolist() == [128 * 3 + 48]


def test_rounding_to_narrow_types_is_to_the_nearest_and_even() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * np.float32(40)
    values = np.concatenate([values, E4M3[:127], (E4M3[:126] + E4M3[1:127]) / 2, -E4M3[:127]])
    clipped = torch.from_numpy(values).clamp(-448, 448)
    assert (to_e4m3(values) == clipped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()).all()
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert (to_bf16(values) == expected).all()
