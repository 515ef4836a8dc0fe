"""One table of the sizes at which the operations are tested, compiled ahead of time, measured and emulated.

:mod:`aicl_fast.kernels.harness` makes a row runnable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aicl_fast.extras import needs

with needs("triton"):
    import torch

F32, F16, BF16, F8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn
WAYS = ("whole, boxes", "split, boxes", "whole, pointers", "split, pointers")
"""To launch the network's product."""


@dataclass(frozen=True)
class Spec:
    """An operation at one size."""

    operation: str
    shape: tuple[int, ...]
    """B, T and then: C of the fusion and the pooling, nothing of the mining, De of the contrast, and
    D_rgb, D_flow, De, C of the network and its embeddings."""
    dtype: torch.dtype
    layout: str
    """How inputs lie in memory: ``rows``, ``planar`` (a transposed (B, C, T)) or ``strided``."""
    used: str
    """By whom, as words: ``test``, ``ptx``, ``aot``, ``bench``, ``sweep``."""
    rank: int = 9
    """Benchmarks measure in this order, so that one that is cut off has what is asked for first."""
    k: int = 0
    """Segments that are selected; 0 takes the method's share of T."""
    count: int = 3
    """Embeddings of the contrast."""
    ties: bool = False
    """Ranked values are on a coarse grid, so that the k-th is tied and medians meet values."""
    way: str = ""
    """To launch the network, one of :data:`WAYS`; none leaves it to the size."""
    standardised: bool = False

    @property
    def name(self) -> str:
        """The size, in words."""
        batch, length, *rest = self.shape
        words = [f"x{self.count}"] if self.operation == "contrast" else []
        words += [f"B {batch} T {length}"]
        if len(rest) == 1:
            words.append(f"{'De' if self.operation == 'contrast' else 'C'} {rest[0]}")
        elif rest:
            # What differs from THUMOS14's is named.
            rgb, flow, width, classes = rest
            words += [f"D {rgb}+{flow}"] * ((rgb, flow) != (1024, 1024))
            words += [f"De {width}", *[f"C {classes}"] * (classes != 20)]
        words += {"pooling": [f"k {self.selected}"], "mining": [f"K {self.selected}"]}.get(self.operation, [])
        words.append(str(self.dtype).removeprefix("torch."))
        words += [self.layout] * (len(rest) == 1) + ["tied"] * self.ties
        return " ".join([*words, *self.way.split()])

    @property
    def selected(self) -> int:
        """k, or K."""
        return self.k or max(1, self.shape[1] // (8 if self.operation == "pooling" else 20))


CASES: list[Spec] = [
    Spec("fusion", (256, 750, 20), F32, "planar", "aot bench sweep", rank=3),
    Spec("fusion", (256, 750, 20), F32, "rows", "aot bench sweep", rank=3),
    Spec("fusion", (256, 750, 20), BF16, "rows", "bench", rank=3),
    Spec("fusion", (256, 750, 200), F32, "planar", "bench"),
    Spec("fusion", (16, 750, 20), F32, "planar", "bench"),
    Spec("fusion", (2, 50, 200), F16, "planar", "aot"),
    # Triton takes an argument of 1 for a constant, which has no methods of a tensor.
    Spec("fusion", (1, 1, 1), F32, "rows", "aot test"),
    Spec("fusion", (3, 2, 20), F32, "planar", "test"),
    Spec("fusion", (1, 63, 200), F32, "strided", "test"),
    Spec("fusion", (3, 63, 1), F32, "rows", "test"),
    Spec("fusion", (1, 500, 20), F32, "planar", "test"),
    Spec("fusion", (3, 750, 20), F32, "rows", "test"),
    Spec("fusion", (1, 1000, 20), F32, "planar", "test"),
    Spec("fusion", (1, 50, 1000), F32, "rows", "aot test"),
    Spec("fusion", (2, 13, 20), F32, "planar", "ptx"),
    Spec("fusion", (2, 13, 5), F32, "rows", "ptx"),
    Spec("fusion", (1, 21, 40), F16, "rows", "ptx"),
    Spec("fusion", (1, 9, 20), BF16, "planar", "ptx"),
    Spec("pooling", (16, 750, 20), F32, "planar", "aot bench sweep"),
    Spec("pooling", (32, 50, 200), F32, "planar", "bench"),
    Spec("pooling", (64, 750, 20), F32, "rows", "bench"),
    Spec("pooling", (2, 750, 20), BF16, "rows", "aot"),
    Spec("pooling", (2, 4096, 20), F32, "rows", "aot"),
    Spec("pooling", (1, 1, 1), F32, "rows", "aot test", ties=True),
    *(
        Spec("pooling", shape, F32, layout, "test", k=k, ties=True)
        for shape, layout, ks in (
            ((3, 2, 3), "planar", (1, 2)),
            ((3, 63, 3), "strided", (1, 7, 63)),
            ((1, 500, 2), "planar", (1, 62, 500)),
            ((1, 750, 20), "planar", (1, 93, 750)),
            ((1, 1000, 2), "rows", (1, 125, 1000)),
            ((1, 63, 200), "rows", (7,)),
            ((1, 4096, 1), "rows", (1, 512, 4096)),
        )
        for k in ks
    ),
    Spec("pooling", (2, 63, 3), F32, "planar", "ptx", k=7, ties=True),
    Spec("pooling", (1, 40, 2), F16, "rows", "ptx", k=5, ties=True),
    Spec("pooling", (1, 63, 2), BF16, "strided", "ptx", k=63, ties=True),
    Spec("mining", (16, 750), F32, "rows", "aot bench sweep", rank=4),
    Spec("mining", (256, 750), F32, "rows", "bench"),
    Spec("mining", (32, 50), F32, "rows", "bench"),
    Spec("mining", (2, 750), BF16, "rows", "aot"),
    Spec("mining", (2, 4096), F32, "rows", "aot"),
    Spec("mining", (1, 1), F32, "rows", "aot"),
    *(
        Spec("mining", (batch, length), F32, "rows", "test", k=k, ties=ties)
        for length in (1, 2, 3, 63, 500, 750, 1000, 4096)
        for batch in (1, 3)
        for k, ties in sorted({(k, False) for k in (1, max(1, length // 20), length)} | {(0, True)})
    ),
    Spec("mining", (2, 63), F32, "rows", "ptx", k=5, ties=True),
    Spec("mining", (2, 130), F16, "rows", "ptx", k=6, ties=True),
    Spec("mining", (2, 40), BF16, "rows", "ptx", k=40, ties=True),
    Spec("contrast", (16, 750, 512), F32, "rows", "aot bench sweep", rank=2),
    Spec("contrast", (16, 750, 512), F32, "planar", "aot bench sweep", rank=2),
    Spec("contrast", (16, 750, 512), BF16, "rows", "aot bench", rank=2),
    Spec("contrast", (32, 50, 1024), F32, "planar", "bench", rank=2),
    Spec("contrast", (2, 50, 1024), F16, "planar", "aot", count=2),
    Spec("contrast", (2, 4096, 2048), F32, "rows", "aot", count=1),
    Spec("contrast", (1, 1, 1), F32, "rows", "aot", count=1),
    Spec("contrast", (1, 1, 8), F32, "rows", "test", count=1),
    Spec("contrast", (3, 2, 8), F32, "planar", "test", count=2),
    Spec("contrast", (3, 63, 33), F32, "strided", "test"),
    Spec("contrast", (1, 500, 64), F32, "planar", "test", count=1),
    Spec("contrast", (1, 750, 512), F32, "rows", "test", count=1),
    Spec("contrast", (2, 750, 48), F32, "planar", "test"),
    Spec("contrast", (1, 1000, 20), F32, "rows", "test", count=2),
    Spec("contrast", (2, 63, 33), F32, "strided", "ptx", k=7, count=2),
    Spec("contrast", (1, 40, 24), F32, "planar", "ptx", k=5),
    Spec("contrast", (1, 50, 64), F16, "rows", "ptx", k=6, count=1),
    Spec("contrast", (1, 40, 16), BF16, "planar", "ptx", k=5, count=1),
    *(
        Spec("network", (batch, 750, 1024, 1024, 512, 20), dtype, "rows", used, 0 if dtype == BF16 else 9)
        for batch, dtype, used in (
            (1, BF16, "aot bench sweep"),
            (64, BF16, "aot bench sweep"),
            (4, BF16, "sweep"),
            (8, BF16, "sweep"),
            (1, F16, "bench"),
            (1, F32, "aot bench"),
            (64, F32, "aot bench"),
            (1, F8, "aot bench sweep"),
            (64, F8, "aot bench sweep"),
        )
    ),
    Spec("network", (128, 50, 1024, 1024, 1024, 200), BF16, "rows", "aot"),
    Spec("network", (128, 50, 1024, 1024, 512, 20), F8, "rows", "aot"),
    Spec("network", (1, 50, 1024, 1024, 1024, 200), BF16, "rows", "aot"),
    Spec("network", (1, 50, 1024, 1024, 1024, 200), F32, "rows", "aot"),
    Spec("network", (1, 50, 1024, 1024, 512, 512), BF16, "rows", "aot"),
    Spec("network", (1, 50, 1000, 1000, 512, 512), F32, "rows", "aot", standardised=True),
    Spec("network", (1, 100, 57, 57, 128, 8), F32, "rows", "aot", standardised=True),
    Spec("network", (1, 1, 1, 1, 1, 1), F32, "rows", "aot", standardised=True),
    *(
        Spec("embeddings", shape, dtype, "rows", "aot")
        for shape, dtype in (
            ((64, 750, 1024, 1024, 512, 20), BF16),
            ((64, 750, 1024, 1024, 512, 20), F32),
            ((64, 750, 1024, 1024, 512, 20), F8),
            ((128, 50, 1024, 1024, 1024, 200), BF16),
            ((128, 50, 1024, 1024, 512, 20), F8),
        )
    ),
    # Widths that fill no tile, videos shorter than one and longer; every way to launch, whatever the size.
    *(
        Spec(operation, shape, F32, "rows", "test", way=way, standardised=standardised)
        for operation, ways in (("network", WAYS), ("embeddings", ("",)))
        for way in ways
        for shape, standardised in (
            ((1, 1, 57, 57, 40, 8), True),
            ((3, 2, 64, 40, 16, 1), False),
            ((2, 63, 57, 57, 130, 20), True),
            ((3, 63, 64, 128, 64, 200), False),
            ((1, 500, 30, 30, 24, 20), False),
            ((1, 750, 128, 128, 64, 20), False),
            ((1, 1000, 16, 16, 16, 20), True),
            ((1, 50, 16, 16, 40, 300), True),
        )
    ),
    # Two videos, the tile longer than they are; two steps of the features, the last in part.
    *(
        Spec("network", shape, dtype, "rows", "ptx", way=way, standardised=dtype == F32)
        for way in WAYS
        for shape in ((2, 120, 72, 40, 24, 20) if way.endswith("boxes") else (2, 75, 57, 30, 24, 20),)
        for dtype in (F32, F16, BF16)
    ),
    *(Spec("network", (2, 120, 144, 64, 24, 20), F8, "rows", "ptx", way=WAYS[i]) for i in (0, 1, 3)),
    Spec("embeddings", (1, 130, 64, 40, 24, 3), F32, "rows", "ptx", standardised=True),
    Spec("embeddings", (1, 130, 64, 40, 24, 3), BF16, "rows", "ptx", standardised=True),
]
"""Which rows: sizes of the method's data sets for benchmarks; for compilation each that changes a launch, in
the layouts that occur; for tests the corners."""


def specs(user: str, operation: str = "") -> Iterator[Spec]:
    """The rows of one user, of the operations whose name contains ``operation``."""
    return (spec for spec in CASES if user in spec.used.split() and operation in spec.operation)
