"""Repetitions: the seeds of a step, and the switch for bit-equal results on a GPU."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..common.rng import keys


def use_deterministic_algorithms() -> None:
    """Makes torch, cuDNN and cuBLAS use algorithms that repeat their results bit by bit, for the rest of the process.

    An operation without such an algorithm raises an error then. It costs speed. What is not covered: another kind of
    GPU, number of processes, or version of these libraries.
    """
    # Read when cuBLAS starts; without it torch refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds every global generator for one micro-batch.

    Dropout and mixup then depend on the step alone, so a resumed run needs no generator states.
    """
    key = int(keys(seed, step, part)[0])
    torch.manual_seed(key & (2**63 - 1))
    np.random.seed(key & (2**32 - 1))
    random.seed(key)


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one acts at once."""
    received: list[int] = []
    handled = (signal.SIGTERM, signal.SIGINT)
    try:
        old: dict[int, Any] = {number: signal.getsignal(number) for number in handled}

        def note(number: int, frame: Any) -> None:
            received.append(number)
            signal.signal(number, old[number])

        for number in handled:
            signal.signal(number, note)
    except ValueError:  # not the main thread: signals are somebody else's
        yield received
        return
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, old[number])


def any_process(received: list[int], world: int, device: torch.device) -> bool:
    """Whether a signal reached any process; all have to ask at the same step, so that they stop there."""
    if world == 1:
        return bool(received)
    flag = torch.tensor(len(received), device=device)
    dist.all_reduce(flag)
    return bool(flag.item())
