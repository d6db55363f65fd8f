"""Rows of a tensor from all processes."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows ``[n, ...]`` of all processes in rank order, without gradient. n may differ between processes."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        gathered: Tensor = _gather(tensor)
        return gathered
    return tensor


def rows_before(tensor: Tensor) -> int:
    """How many rows `gather_rows` of this tensor puts before this process's own."""
    if not dist.is_available() or not dist.is_initialized():
        return 0
    counts = gather_rows(torch.tensor([len(tensor)], device=tensor.device))
    return int(counts[: dist.get_rank()].sum())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # collectives would break the graph and warn that nobody waits
def _gather(tensor: Tensor) -> Tensor:
    sizes = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    longest = max(int(size) for size in sizes)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: int(size)] for rows, size in zip(gathered, sizes, strict=True)])
