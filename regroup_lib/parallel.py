"""Several processes that train one network, each on its share of every batch, as torchrun starts them.

    torchrun --nproc-per-node 2 train_mine.py

`training.train` inside `process_group` divides the work; in a plain process the same script trains as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import environ

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from regroup_lib.progress import silence


@contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that torchrun has started, and yield this one's rank; 0 where it has started none.

    Processors talk by gloo, GPUs (one a process) by NCCL.
    """
    if not distributed.is_torchelastic_launched():
        yield 0
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        if rank() == 0:
            yield 0
        else:
            with silence():  # the bar of rank 0 speaks for all
                yield rank()
    finally:
        distributed.destroy_process_group()


def is_parallel() -> bool:
    """Return whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if is_parallel() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if is_parallel() else 1


def averaging(network: nn.Module) -> nn.Module:
    """Return a module whose backward pass averages the gradients of all processes; the network itself if alone."""
    return DistributedDataParallel(network) if is_parallel() else network


def share(index: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return this process's rows of a batch, and the weight of their mean loss in the average over processes.

    Shares differ by one row where the batch cannot be divided; a batch of fewer rows than processes is everybody's.
    """
    n_ranks = world_size()
    if len(index) < n_ranks:
        return index, 1.0
    mine = index[rank() :: n_ranks]
    return mine, len(mine) * n_ranks / len(index)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes, on each the same."""
    if is_parallel():
        value = value.clone()
        distributed.all_reduce(value)
        value /= world_size()
    return value


def share_buffers(network: nn.Module) -> None:
    """Give all processes the buffers of rank 0: after a step each has moved its running statistics by itself."""
    if is_parallel():
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def check_agreement(value: int, message: str) -> None:
    """Raise a ValueError on all processes unless they have the same number."""
    if is_parallel():
        found: list[int] = [0] * world_size()
        distributed.all_gather_object(found, value)
        if len(set(found)) > 1:
            raise ValueError(f"{message}: {found}")
