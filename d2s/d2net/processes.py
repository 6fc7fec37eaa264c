"""Training in several processes that `torchrun` starts: they share each batch, and every one makes the step of the whole batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

_SUMMED: list[Tensor] = []
"""The last tensor that was added up. Gloo's thread lets go of it some time after `all_reduce` has returned; were that the last reference,
the thread would need the interpreter for it, and abort a process that is about to end.
"""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and the device of each."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this one writes files and logs."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        _SUMMED[:] = [tensor]
        distributed.all_reduce(tensor)
        return float(tensor)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The gradients of all processes are added up; a process without any counts as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes of torchrun (one GPU each where `device` is one), or just this one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, device)
        distributed.barrier()  # nobody leaves while others still need the group
    finally:
        distributed.destroy_process_group()
