"""Several processes that train one model, each on its part of every batch.

Started by torchrun, or by anyone who calls `torch.distributed.init_process_group`. Gradients are
averaged in the backward pass, by DistributedDataParallel, before a method sees them; so every
process finds the same thresholds and takes the same masks, without further messages.
"""

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sparse_ops.data import Batches
from sparse_ops.training.evaluation import BatchSource

# Buffers are averaged once an epoch, and not sent around before each step; how that is said has
# changed in torch.
_SAID = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in _SAID
    else {"broadcast_buffers": False}
)


@dataclass(frozen=True)
class World:
    """The processes of this run.

    Attributes:
        rank: which of them this one is; 0 writes files and shows bars.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def now(cls) -> "World":
        """As torch.distributed has been set up; one process if it has not."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, model: nn.Module) -> None:
        """Gives every process the parameters and buffers of the first."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor, 0)

    def average_buffers(self, model: nn.Module) -> None:
        """Averages what each process has seen, such as the running means of BatchNorm."""
        if self.size > 1:
            with torch.no_grad():
                for buffer in model.buffers():
                    if buffer.is_floating_point():
                        dist.all_reduce(buffer)
                        buffer /= self.size

    def sum(self, *tensors: Tensor) -> None:
        """Replaces each by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def agree(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """The first process's numbers, in every process; to the last bit."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.broadcast(told, 0)
        return [float(number) for number in told.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()


class Joint:
    """The model as it is called in training; in several processes, as DistributedDataParallel.

    That is made anew when other parameters learn than before: it waits for all of their gradients.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model, self.world = model, world
        self._learning: tuple[int, ...] = ()
        self._wrapped: nn.Module = model

    def __call__(self) -> nn.Module:
        if self.world.size == 1:
            return self.model
        learning = tuple(id(p) for p in self.model.parameters() if p.requires_grad)
        if learning != self._learning:
            self._wrapped = DistributedDataParallel(self.model, **_NO_BUFFERS)
            self._learning = learning
        return self._wrapped


def steps_of(source: BatchSource, world: World) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(x, labels, weight of the loss) of this process: parts of a split's batches.

    Other sources are taken to be each process's own, with batches of one size, as a DataLoader with
    a DistributedSampler gives them.
    """
    if isinstance(source, Batches):
        yield from source.part(world.rank, world.size)
    else:
        for x, labels in source:
            yield x, labels, 1.0


def begin_epoch(source: BatchSource, number: int) -> None:
    """Tells a DistributedSampler the epoch, without which each would have the same order."""
    tell = getattr(getattr(source, "sampler", None), "set_epoch", None)
    if callable(tell):
        tell(number - 1)


@contextmanager
def from_torchrun(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun has started, until the block ends; or stays alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not dist.is_available():
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World.now()
    finally:
        dist.destroy_process_group()
