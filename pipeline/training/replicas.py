"""One model trained by several processes, one per GPU, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

Made = TypeVar("Made")


class Replicas:
    """The processes that train one model; one alone where nothing else was started.

    Args:
        rank: of this process; the first, 0, is the one that writes and speaks.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def shared(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, in all of them.

        Raises:
            Exception: whatever ``make`` raises, in the first; the others end with it.
        """
        if self.count == 1:
            return make()
        made = [make() if self.first else None]
        distributed.broadcast_object_list(made)
        return cast("Made", made[0])

    def agreed(self, value: float) -> float:
        """The first process's ``value``."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.item()

    @torch.no_grad()
    def align(self, parameters: Iterable[Tensor]) -> None:
        """Start from the first process's parameters."""
        if self.count > 1:
            for parameter in parameters:
                distributed.broadcast(parameter, 0)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over all processes, in which the same parameters have one."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [mean.view_as(own) for mean, own in zip(means, gradients, strict=True)]
        )


@contextmanager
def joined(device: str) -> Iterator[tuple[Replicas, torch.device]]:
    """Join the processes that ``torchrun`` started, if it did.

    Args:
        device: ``cpu`` or ``cuda``; of several GPUs each process takes the one of its local rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Replicas(), torch.device(device)
        return
    own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    # Numbers on the CPU are exchanged there: told through the GPU, they would wait for its work.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo")
    try:
        yield Replicas(distributed.get_rank(), count), own
    finally:
        distributed.destroy_process_group()
