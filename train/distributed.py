"""Several processes on one run, by torch.distributed. A single process needs none of it."""

from __future__ import annotations

import gc
import importlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process logs, evaluates and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's videos of a batch of ``count``."""
        return slice(self.rank, count, self.world)

    def from_main(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined_ranks(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, if it did; yields this one's place and its device.

    What was made of the group, a DistributedDataParallel say, must not be referred to any more at the end.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(), torch.device(device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device.startswith("cuda")
    place = torch.device("cuda", local) if on_gpu else torch.device(device)
    if on_gpu:
        torch.cuda.set_device(place)
    # Before the group exists: functions of this module have the default group as an argument's default, and
    # would hold it, and its threads, for good.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world), place
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # The group's threads need the interpreter's lock to let go of their last tensors. Destroying it
        # waits for them without the lock; the interpreter's end would abort in them, and a
        # DistributedDataParallel that is freed after the group would wait for them with the lock held.
        gc.collect()
        distributed.destroy_process_group()
