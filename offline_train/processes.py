"""Several processes that train one model: who this is, and the exchange of vectors and gradients.

Every process computes the loss of the whole batch from everyone's vectors. The gradient that flows back into a
process's own vectors is then complete, negatives of other processes included, and the sum of all processes' parameter
gradients is the gradient of the whole batch: the same as in one process. Start with `torchrun`, which sets the
variables that `join` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed


def join() -> tuple[int, int]:
    """(rank, number of processes), after joining the group that torchrun's variables name, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return place()


def place() -> tuple[int, int]:
    """(rank, number of processes) of the group that was joined; (0, 1) without one."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rank, size = place()
        parts = [torch.empty_like(rows) for _ in range(size)]
        distributed.all_gather(parts, rows.contiguous())
        ctx.own = slice(rank * len(rows), (rank + 1) * len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][ctx.own]


def gather(rows: Tensor) -> Tensor:
    """[b, ...] of each process -> [processes * b, ...] in every one, with gradients into the own rows."""
    if place()[1] == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def total(value: Tensor) -> Tensor:
    """The sum over all processes, without gradients."""
    if place()[1] > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every parameter's gradient by the sum over all processes."""
    if place()[1] == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)


def wait() -> None:
    """Until every process is here."""
    if place()[1] > 1:
        distributed.barrier()
