"""The processes of a training: their start, seeds, deterministic kernels, and signals."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from ..common.errors import SkdError
from ..common.rng import keys
from ..recipe import Recipe


def start_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """accelerate with the launcher's processes and the recipe's precision and trackers."""
    if not dist.is_initialized():  # accelerate keeps an earlier training's precision for the life of the process
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    available = [tracker.value for tracker in get_available_trackers()]
    for tracker in recipe.trackers:
        if tracker not in available:
            raise SkdError(f"tracker {tracker!r} is unknown or not installed; available: {', '.join(available)}")
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise SkdError("precision=fp16 needs a GPU: its gradients are scaled there only; use precision=bf16 or no")
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.grad_accumulation,
        log_with=list(recipe.trackers) or None,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=recipe.timeout_minutes))],
    )


def choose_kernels(*, deterministic: bool) -> None:
    """Fast or deterministic kernels on a GPU, for the rest of the process.

    Fast: cuDNN times its kernels for each shape and takes the fastest, and float32 products are computed in TF32, both
    as in timm's train.py. Deterministic: torch, cuDNN and cuBLAS give bit-identical results on every run. Results still
    differ between kinds of GPUs, numbers of processes, and versions of these libraries.
    """
    fast = torch.cuda.is_available() and not deterministic
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = fast
    if not deterministic:
        return
    # cuBLAS reads this when it starts; without it torch refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds every global generator for one micro-batch.

    Dropout and mixup then depend on the step alone, so a resumed run needs no generator states.
    """
    key = int(keys(seed, step, part)[0])
    # torch.manual_seed would visit every kind and number of device, which takes a hundred times as long.
    torch.default_generator.manual_seed(key & (2**63 - 1))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(key & (2**63 - 1))
    np.random.seed(key & (2**32 - 1))
    random.seed(key)


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGUSR1 (SLURM's notice before the time limit) and SIGINT.

    Repeated ones do not end the process: a scheduler signals all processes, and torchrun passes its own signal on to
    those that already have it. Only the third SIGINT does, from a person who doesn't want the checkpoint.
    """
    received: list[int] = []
    old: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGINT and received.count(number) == 2:
            # Not print, which may be what the signal interrupts.
            os.write(2, b"a checkpoint is being written; Ctrl-C once more ends the run without it\n")
            signal.signal(number, old[number])

    if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
        old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    for number in old:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def any_process(received: list[int], world: int, device: torch.device) -> bool:
    """Whether a signal reached any process. All processes have to ask at the same step.

    The host waits for the device. In every tenth step that costs the launch of a step's first kernels, and a second
    group of processes on gloo, which would save it, needs a network that gloo finds.
    """
    if world == 1:
        return bool(received)
    flag = torch.tensor(len(received), device=device)
    dist.all_reduce(flag)
    return bool(flag.item())
