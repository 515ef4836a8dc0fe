"""Compile every kernel, as it is launched, for GPUs that need not be there.

    python -m aicl_fast.kernels.aot --json table.json

The launches are recorded from the public functions at the sizes of ``cases.py``, so what is compiled is what
runs: the same signatures, constants and launch settings. Prints registers, stack, shared memory and spills
of each and exits with 1 if one spills or needs more shared memory than its GPU has. Needs Triton, and a
process without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.cases import F8, specs
from aicl_fast.kernels.harness import build, complete
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


def _cases(target: int, only: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every kernel at each size that changes its launch settings, in the layouts that occur."""
    for spec in specs("aot"):
        name = f"{spec.operation} {spec.name}"
        # Float8 products exist from compute capability 8.9 on; what hangs on no target is compiled for one.
        if only not in name or (spec.dtype == F8 and target < 89) or (max(spec.shape) == 1 and target != 90):
            continue
        case = build(spec)
        yield name, partial(complete(case, case.kernels), case.make(None))


def record(target: int, cases: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[Launch]:
    """The launches that calls make for one target, without running them.

    Args:
        target: compute capability, times ten.
        cases: names and calls.
    """
    launches: list[Launch] = []
    for case, run in cases:

        def note(
            kernel: Any, _: Any, arguments: tuple[Any, ...], settings: dict[str, Any], case: str = case
        ) -> None:
            launches.append(Launch(kernel, case, arguments, settings))

        with intercepted(note, target):
            run()
        yield from launches
        launches.clear()


def source_of(launch: Launch) -> tuple[Any, dict[str, int]]:
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

    source, options = source_of(launch)
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
        for launch in record(target, _cases(target, options.only)):
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
