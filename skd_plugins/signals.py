"""Signals that end a training run in an orderly way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


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
