"""Starts the training processes with detectron2's launch, on CPUs too."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2 import engine
from detectron2.engine import defaults
from detectron2.utils import comm

from skd_plugins.common.errors import SkdError


def launch(
    main: Callable[..., Any], processes: int, machines: int, machine_rank: int, url: str, args: tuple[Any, ...]
) -> None:
    """Runs `main` in `processes` processes on this machine, one of `machines`; without GPUs over gloo."""
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise SkdError(f"--num-gpus is {processes}, but this machine has {gpus}")
    if not 0 <= machine_rank < machines:
        raise SkdError(f"--machine-rank is {machine_rank}; the ranks of {machines} machines are 0 to {machines - 1}")
    if gpus or processes * machines == 1:
        engine.launch(main, processes, machines, machine_rank, url, args)
        return
    # detectron2 0.6 launches several processes on GPUs only; later versions do this on CPUs.
    arguments = (main, processes, machines, machine_rank, url, args)
    mp.spawn(_on_processor, arguments, nprocs=processes)  # type: ignore[attr-defined, no-untyped-call]  # torch has no types there


def _on_processor(
    local_rank: int, main: Callable[..., Any], processes: int, machines: int, machine_rank: int, url: str,
    args: tuple[Any, ...],
) -> None:  # fmt: skip
    rank, world = machine_rank * processes + local_rank, processes * machines
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))  # more threads than cores would spin
    dist.init_process_group("gloo", init_method=url, world_size=world, rank=rank)
    for machine in range(machines):
        group = dist.new_group(list(range(machine * processes, (machine + 1) * processes)))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group
    # DefaultTrainer gives DDP a device number, which a model on a CPU does not have.
    wrap = defaults.create_ddp_model
    defaults.create_ddp_model = lambda model, **options: wrap(model, **options, device_ids=None)
    comm.synchronize()
    main(*args)
    dist.barrier()
    dist.destroy_process_group()
