"""What travels between the CPU and a device while the device goes on with what it was given before.

A plain copy waits for all of that, and leaves the device without work meanwhile.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """From the CPU to a device, without waiting for what that is still computing.

    What is on a device already is returned as it is, or copied to the other one.
    """
    if tensor.is_cuda or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def array_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The same of an array."""
    return to_device(torch.from_numpy(array), device)


class Fetched:
    """A copy of a tensor, on its way to the CPU while the device goes on.

    Args:
        tensor: integers [n]; may be overwritten by what the device is given to do after this.
    """

    def __init__(self, tensor: Tensor) -> None:
        on_gpu = tensor.is_cuda
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._copy.copy_(tensor, non_blocking=on_gpu)
        self._arrived: Any = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    @cached_property
    def values(self) -> list[int]:
        """What is in it; waits until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[int] = self._copy.tolist()
        return values

    def part(self, span: slice) -> list[int]:
        """Some of it; waits as well."""
        return self.values[span]
