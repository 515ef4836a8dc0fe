"""Compile every kernel, as it is launched, for GPUs that need not be there.

    python -m aicl_fast.kernels.aot --json table.json

The launches are recorded from the public functions at the shapes below, so what is compiled is what runs:
the same signatures, constants and launch settings. Prints registers, stack, shared memory and spills of each
and exits with 1 if one spills or needs more shared memory than its GPU has. Needs Triton, and a process
without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.launch import intercepted

TARGETS = (80, 90, 100, 120)
_SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes a block may ask for
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.bool: "i1",
    torch.int32: "i32",
    torch.float8_e4m3fn: "fp8e4nv",
}


@dataclass(frozen=True)
class Launch:
    """One recorded launch: what Triton would compile it for."""

    kernel: Any
    """The ``triton.jit`` function."""
    case: str
    arguments: tuple[Any, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Resources of one compiled kernel."""

    kernel: str
    case: str
    target: int
    warps: int
    stages: int
    registers: int
    stack: int
    """Bytes a thread keeps in local memory; what does not fit in registers spills there."""
    shared: int
    """Bytes of shared memory a program."""
    serialised: bool
    """Whether Hopper's products run one at a time, because something between them reads their sums."""

    @property
    def fits(self) -> bool:
        """No spill, no product that waits for another, and shared memory within the GPU's limit."""
        return self.stack == 0 and not self.serialised and self.shared <= _SHARED_LIMIT[self.target]


def _rows(batch: int, length: int, width: int, dtype: torch.dtype, planar: bool) -> Tensor:
    value = torch.rand(batch, width, length, dtype=dtype)
    return (value.transpose(1, 2) if planar else value.transpose(1, 2).contiguous()).requires_grad_()


def _fusion(length: int, classes: int, dtype: torch.dtype, planar: bool) -> None:
    from aicl_fast.kernels.fusion import score_fusion

    logit = torch.rand(2, length, dtype=dtype, requires_grad=True)
    outputs = score_fusion(_rows(2, length, classes, dtype, planar), logit, logit, 1 / 3)
    torch.autograd.backward(outputs, outputs)


def _pooling(length: int, classes: int, dtype: torch.dtype, planar: bool) -> None:
    from aicl_fast.kernels.pooling import topk_pool

    cas = _rows(2, length, classes, dtype, planar)
    pooled = topk_pool(cas, cas.detach(), max(1, length // 8))[0]
    torch.autograd.backward(pooled, pooled)


def _mining(length: int, dtype: torch.dtype) -> None:
    from aicl_fast.kernels.mining import mine_segments

    a, a_ca = torch.rand(2, 2, length).to(dtype)
    mine_segments(a, a_ca, max(1, length // 20))


def _contrast(length: int, width: int, count: int, dtype: torch.dtype, planar: bool) -> None:
    from aicl_fast.kernels.contrast import segment_contrast
    from aicl_fast.kernels.mining import Mining

    masks = Mining(*torch.zeros(4, 2, length, dtype=torch.bool))
    embeddings = [_rows(2, length, width, dtype, planar) for _ in range(count)]
    torch.autograd.backward(segment_contrast(embeddings, masks, 0.1).sum())


def _network(
    batch: int, length: int, widths: tuple[int, int], de: int, classes: int, dtype: torch.dtype
) -> None:
    from aicl_fast.kernels import pack_two_branch, two_branch_embed, two_branch_infer

    shapes = {"embed": sum(widths), "embed_rgb": widths[0], "embed_flow": widths[1]}
    state = {f"{name}.weight": torch.rand(de, width, 3) for name, width in shapes.items()}
    heads = {"classify": classes, "actionness_rgb": 1, "actionness_flow": 1}
    state |= {f"{name}.weight": torch.rand(count, de, 1) for name, count in heads.items()}
    state |= {f"{name}.bias": torch.rand(de) for name in shapes}
    state |= {f"{name}.bias": torch.rand(count) for name, count in heads.items()}
    if widths[0] != 1024:
        state |= {"input_mean": torch.rand(sum(widths)), "input_scale": torch.rand(sum(widths))}
    weights = pack_two_branch(state, dtype)
    # Features come in bfloat16 where weights are float8, and are rounded on the way.
    x = torch.zeros(batch, length, sum(widths), dtype=weights.classify.dtype)
    two_branch_infer(x, weights, 1 / 3)
    if batch > 1:
        two_branch_embed(x, weights)


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every kernel at each size that changes its launch settings, in the layouts that occur."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    for length, classes, dtype, planar in (
        (750, 20, f32, True),
        (750, 20, f32, False),
        (50, 200, f16, True),
        (50, 1000, f32, False),
    ):
        layout = "planar" if planar else "rows"
        name = f"T {length} C {classes} {_TYPES[dtype]} {layout}"
        yield f"fusion {name}", lambda a=(length, classes, dtype, planar): _fusion(*a)  # type: ignore[misc]
    for length, classes, dtype, planar in (
        (750, 20, f32, True),
        (750, 20, bf16, False),
        (4096, 20, f32, False),
    ):
        layout = "planar" if planar else "rows"
        name = f"T {length} C {classes} {_TYPES[dtype]} {layout}"
        yield f"pooling {name}", lambda a=(length, classes, dtype, planar): _pooling(*a)  # type: ignore[misc]
    for length, dtype in ((750, f32), (750, bf16), (4096, f32)):
        yield f"mining T {length} {_TYPES[dtype]}", lambda a=(length, dtype): _mining(*a)  # type: ignore[misc]
    for length, width, count, dtype, planar in (
        (750, 512, 3, f32, True),
        (750, 512, 3, f32, False),
        (750, 512, 3, bf16, False),
        (50, 1024, 2, f16, True),
        (4096, 2048, 1, f32, False),
    ):
        layout = "planar" if planar else "rows"
        name = f"T {length} De {width} x{count} {_TYPES[dtype]} {layout}"
        yield f"contrast {name}", lambda a=(length, width, count, dtype, planar): _contrast(*a)  # type: ignore[misc]
    f8, wide = torch.float8_e4m3fn, (1024, 1024)
    for batch, length, widths, de, classes, dtype in (
        (1, 750, wide, 512, 20, bf16),
        (64, 750, wide, 512, 20, bf16),
        (1, 750, wide, 512, 20, f32),
        (64, 750, wide, 512, 20, f32),
        (1, 750, wide, 512, 20, f8),
        (64, 750, wide, 512, 20, f8),
        (128, 50, wide, 1024, 200, bf16),
        (128, 50, wide, 512, 20, f8),
        (1, 50, wide, 1024, 200, bf16),
        (1, 50, wide, 1024, 200, f32),
        (1, 50, wide, 512, 512, bf16),
        (1, 50, (1000, 1000), 512, 512, f32),
        (1, 100, (57, 57), 128, 8, f32),
    ):
        name = f"network B {batch} T {length} De {de} C {classes} {_TYPES[dtype]}"
        yield name, lambda a=(batch, length, widths, de, classes, dtype): _network(*a)  # type: ignore[misc]
    # Triton takes an argument of 1 for a constant, which has no methods of a tensor.
    yield "ones fusion", lambda: _fusion(1, 1, f32, False)
    yield "ones pooling", lambda: _pooling(1, 1, f32, False)
    yield "ones mining", lambda: _mining(1, f32)
    yield "ones contrast", lambda: _contrast(1, 1, 1, f32, False)
    yield "ones network", lambda: _network(1, 1, (1, 1), 1, 1, f32)


def _wanted(case: str, target: int) -> bool:
    """Float8 products exist from compute capability 8.9 on; what hangs on no target is compiled for one."""
    if "fp8" in case and target < 89:
        return False
    return target == 90 or not case.startswith("ones")


def record(target: int, only: str = "") -> list[Launch]:
    """The launches that the cases make for one target, without running them.

    Args:
        target: compute capability, times ten.
        only: cases whose name contains this.
    """
    launches: list[Launch] = []
    case = ""

    def note(kernel: Any, _: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
        launches.append(Launch(kernel, case, arguments, settings))

    with intercepted(note, target):
        for case, run in cases():
            if only in case and _wanted(case, target):
                run()
    return launches


def _source(launch: Launch) -> tuple[Any, dict[str, int]]:
    """The launch as Triton's compiler takes it, specialised as the launch itself would be."""
    from triton.compiler import ASTSource
    from triton.tools.tensor_descriptor import TensorDescriptor

    function = launch.kernel
    options = {key: value for key, value in launch.settings.items() if key in ("num_warps", "num_stages")}
    values = dict(zip(function.arg_names, launch.arguments, strict=False))
    values |= {key: value for key, value in launch.settings.items() if key not in options}
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for at, parameter in enumerate(function.params):
        value = values[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(at,)] = value
        elif isinstance(value, TensorDescriptor):
            box = ",".join(map(str, value.block_shape))
            signature[parameter.name] = f"tensordesc<{_TYPES[value.base.dtype]}[{box}]>"
        elif isinstance(value, Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(at,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32"
            if special and value % 16 == 0:
                attributes[(at,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    return ASTSource(function, signature, constants, attributes), options


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _said(command: list[str], given: str = "") -> str:
    done = subprocess.run(command, input=given, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def compile_launch(launch: Launch, target: int) -> Usage:
    """Compile one launch for one compute capability (times ten)."""
    import triton
    from triton.backends.compiler import GPUTarget

    source, options = _source(launch)
    built = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        report = _said([_tool("cuobjdump"), "--dump-resource-usage", file.name])
        serialised = False
        if "wgmma" in built.asm["ptx"]:
            # Triton keeps the assembler's warnings to itself.
            said = _said([_tool("ptxas"), "-arch=sm_90a", "-v", "-", "-o", file.name], built.asm["ptx"])
            serialised = "instructions are serialized" in said
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return Usage(
        kernel=launch.kernel.__name__,
        case=launch.case,
        target=target,
        warps=built.metadata.num_warps,
        stages=built.metadata.num_stages,
        registers=found["REG"],
        stack=found["STACK"] + found["LOCAL"],
        shared=built.metadata.shared,
        serialised=serialised,
    )


def main(arguments: list[str] | None = None) -> int:
    """Compile, print the table, write it; 1 if a kernel spills or does not fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--targets", type=int, nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--json", type=Path, help="write the table here as well")
    options = parser.parse_args(arguments)
    import triton

    row = "{:<20} {:<42} {:>4} {:>5} {:>6} {:>4} {:>6} {:>7}\n"
    write = sys.stdout.write
    write(row.format("kernel", "case", "sm", "warps", "stages", "reg", "stack", "shared"))
    table = []
    for target in options.targets:
        for launch in record(target, options.only):
            usage = compile_launch(launch, target)
            table.append(usage)
            columns = (usage.target, usage.warps, usage.stages, usage.registers, usage.stack, usage.shared)
            write(row.format(usage.kernel, usage.case, *columns))
            sys.stdout.flush()
    bad = [usage for usage in table if not usage.fits]
    write(f"triton {triton.__version__}: {len(table)} compiled, {len(bad)} spill, wait or do not fit\n")
    if options.json:
        rows = ",\n".join(json.dumps(asdict(usage)) for usage in table)
        options.json.write_text(f'{{"triton": "{triton.__version__}", "kernels": [\n{rows}\n]}}\n')
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
