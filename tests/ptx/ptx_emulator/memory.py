"""Bytes that know who touched them: PTX ISA, "State Spaces" and "Memory Consistency Model"."""

from __future__ import annotations

import numpy as np

from ptx_emulator.faults import Misaligned, OutOfBounds, Race, Uninitialised
from ptx_emulator.formats import Array

_SEVERAL = -9  # more than one warp
_GARBAGE = 0x7F  # what nobody has written: NaN in most types

COPY_ENGINE = -5
"""Stands for a warp where the copy engine writes; whoever waited for its barrier is ordered after it."""


def alike(left: Array, right: Array) -> bool:
    """Whether bytes (n, size) are the same, or replicas of float32 values that differ by rounding."""
    if np.array_equal(left, right):
        return True
    if left.shape[-1] % 4:
        return False
    a, b = (np.ascontiguousarray(side).view(np.float32) for side in (left, right))
    return bool(np.allclose(a, b, rtol=1e-5, atol=0))


class Memory:
    """One state space: its bytes, which of them exist, are written, and who last touched them when.

    Time is counted in barriers: ``now`` goes up at each barrier of the block that runs, and what two warps do
    at the same ``now`` is not ordered. Blocks are never ordered within a launch.
    """

    def __init__(self, name: str, base: int, size: int) -> None:
        self.name, self.base = name, base
        self.data = np.full(size, _GARBAGE, np.uint8)
        self.allocated = np.zeros(size, bool)
        self.initialised = np.zeros(size, bool)
        self.unfenced = np.zeros(size, bool)
        """Written by ordinary stores and not yet made visible to the asynchronous proxy."""
        self.now = 1
        self.block_start = 1
        self._writer, self._written, self._reader, self._read = (np.zeros(size, np.int32) for _ in range(4))

    def next_block(self) -> None:
        """The accesses that follow are another block's."""
        self.now += 1
        self.block_start = self.now

    def locate(self, addresses: Array, size: int) -> Array:
        """(n, size) places in ``data`` of accesses of ``size`` bytes.

        Raises:
            OutOfBounds, Misaligned: where the name says.
        """
        if size > 1 and (addresses % size).any():
            raise Misaligned(f"{self.name}: expected multiples of {size}, got {_first(addresses, size)}")
        places = (addresses - self.base)[:, None]
        if size > 1:
            places = places + np.arange(size)
        if places.size and (places.min() < 0 or places.max() >= self.data.size):
            raise OutOfBounds(f"{self.name}: {hex(int(addresses.min()))} to {hex(int(addresses.max()))}")
        there = self.allocated[places]
        if not there.all():
            outside = ~there.all(1)
            raise OutOfBounds(f"{self.name}: {size} bytes at {hex(int(addresses[outside][0]))}")
        return places

    def read(self, addresses: Array, size: int, warps: Array | int) -> Array:
        """(n, size) bytes for n threads of the warps given.

        Raises:
            Uninitialised, Race, OutOfBounds, Misaligned: where the name says.
        """
        places = self.locate(addresses, size)
        self.note_read(places, np.asarray(warps)[..., None] if np.ndim(warps) else warps)
        return self.data[places]

    def note_read(self, places: Array, warps: Array | int) -> None:
        """Check a read of any shape and remember it."""
        there = self.initialised[places]
        if not there.all():
            missing = ~there
            where = hex(self.base + int(places[missing][0]))
            raise Uninitialised(f"{self.name}: {int(missing.sum())} bytes from {where} were never written")
        written = self._written[places]
        foreign = (written == self.now) & (self._writer[places] != warps)
        if foreign.any() or self._by_another_block(written).any():
            raise Race(f"{self.name}: read of what another warp or block wrote, no barrier between")
        several = (self._read[places] == self.now) & (self._reader[places] != warps)
        self._reader[places] = np.where(several, _SEVERAL, warps) if several.any() else warps
        self._read[places] = self.now

    def check_overwrite(self, places: Array, warps: Array | int) -> None:
        """That nobody whom nothing orders before has read these bytes."""
        read = self._read[places]
        foreign = (read == self.now) & (self._reader[places] != warps)
        if foreign.any() or self._by_another_block(read).any():
            raise Race(f"{self.name}: write to what another warp or block reads, no barrier between")

    def write(self, addresses: Array, data: Array, warps: Array | int) -> None:
        """Write (n, size) bytes of n threads of the warps given.

        Raises:
            Race: another warp or block read or wrote here, or threads write different values to one place.
            OutOfBounds, Misaligned: where the name says.
        """
        places = self.locate(addresses, data.shape[1])
        who = np.asarray(warps)[..., None] if np.ndim(warps) else warps
        self.check_overwrite(places, who)
        written = self._written[places]
        foreign = (written == self.now) & (self._writer[places] != who) | self._by_another_block(written)
        rows = foreign.any(1)
        if rows.any() and not alike(self.data[places[rows]], data[rows]):
            raise Race(f"{self.name}: two warps or blocks write different values, no barrier between")
        self.put(places, data, who)
        if not alike(self.data[places], data):
            raise Race(f"{self.name}: threads of one instruction write different values to one place")
        self.unfenced[places] = True

    def put(self, places: Array, data: Array, warps: Array | int) -> None:
        """Write without looking."""
        self.data[places] = data
        self.initialised[places] = True
        # A copy by cp.async counts as fenced: libraries read what it brought by wgmma without a proxy fence.
        self.unfenced[places] = False
        self._writer[places] = warps
        self._written[places] = 0 if np.ndim(warps) == 0 and warps == COPY_ENGINE else self.now

    def fence(self, warps: Array) -> None:
        """What these warps stored becomes visible to the asynchronous proxy."""
        self.unfenced[np.isin(self._writer, warps)] = False

    def _by_another_block(self, when: Array) -> Array:
        return (when > 0) & (when < self.block_start)


def _first(addresses: Array, size: int) -> str:
    return hex(int(addresses[addresses % size != 0][0]))
