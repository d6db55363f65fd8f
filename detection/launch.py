"""Starts the training processes with detectron2's launch, on CPUs too."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2 import engine
from detectron2.engine import defaults
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException

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
    arguments = (main, processes, machines, machine_rank, url, args)
    if processes * machines == 1:
        engine.launch(*arguments)
        return
    with _signals_passed_on() as received:
        try:
            if gpus:
                engine.launch(*arguments)
            else:  # detectron2 0.6 launches several processes on GPUs only; later versions do this on CPUs
                mp.spawn(_on_processor, arguments, nprocs=processes)  # type: ignore[attr-defined, no-untyped-call]  # torch has no types there
        except ProcessExitedException as error:
            if error.exit_code <= 128:
                raise
            raise SystemExit(error.exit_code) from None  # stopped by a signal, with a checkpoint
    if received:
        raise SystemExit(128 + received[0])


@contextmanager
def _signals_passed_on() -> Iterator[list[int]]:
    """Passes SIGTERM and SIGUSR1 on to the training processes, which end themselves; Ctrl-C reaches them anyway."""
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for child in active_children() if number != signal.SIGINT else ():
            if child.pid:
                os.kill(child.pid, number)

    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    for number in old:
        signal.signal(number, pass_on)
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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
