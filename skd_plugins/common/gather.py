"""Rows of a tensor from all processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_equal = False


@contextmanager
def equal_rows(known: bool) -> Iterator[None]:
    """Tells `gather_rows` whether all processes are known to have the same number of rows.

    It then needs one collective, which does not break a compiled graph. Else the processes exchange their numbers
    first, and the host waits for the device.
    """
    global _equal
    before, _equal = _equal, known
    try:
        yield
    finally:
        _equal = before


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows ``[n, ...]`` of all processes in rank order, without gradient. n may differ between processes."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    if _equal:
        return _gather(tensor)
    gathered: Tensor = _gather_unequal(tensor)
    return gathered


def rows_before(tensor: Tensor) -> int:
    """How many rows `gather_rows` of this tensor puts before this process's own."""
    if not dist.is_available() or not dist.is_initialized():
        return 0
    if _equal:
        return dist.get_rank() * len(tensor)
    counts = gather_rows(torch.tensor([len(tensor)], device=tensor.device))
    return int(counts[: dist.get_rank()].sum())


def _gather(tensor: Tensor) -> Tensor:
    gathered = tensor.new_empty(dist.get_world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the shapes depend on the other processes
def _gather_unequal(tensor: Tensor) -> Tensor:
    sizes = _gather(torch.full((1,), len(tensor), device=tensor.device)).tolist()
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return torch.cat([rows[:size] for rows, size in zip(_gather(padded).chunk(len(sizes)), sizes, strict=True)])
