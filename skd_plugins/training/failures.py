"""Turns torch's known failures into one line with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from ..common.errors import SkdError
from ..data.fetch import READER_ADVICE, READER_DIED

P = ParamSpec("P")

# Patterns of torch's messages, and ours. Other errors are passed on: they may be mistakes in the code.
_KNOWN = {
    READER_DIED.pattern: READER_ADVICE,  # torch raises it from a signal handler, at any line
    r"gloo|NCCL|Application timeout|Connection (closed|reset|refused)|[Tt]imed out|waiting for clients|Broken pipe": (
        "another process of this training died or did not answer (timeout_minutes); its own output says why"
    ),
    r"Expected more than 1 value per channel": (
        "a training batch has only one image, which BatchNorm can't use; choose a batch_size that leaves more for the "
        "last batch of an epoch, on every process"
    ),
    r"does not have a deterministic implementation": (
        "deterministic=true, but torch has no deterministic version of one of the network's operations; leave it out"
    ),
    r"out of memory|can't allocate memory|not enough memory": (
        "out of memory; take a smaller batch_size, or the same with grad_accumulation=2 or more"
    ),
}


def explained(error: Exception) -> SkdError | None:
    """The error with the way out, or None if it is not a known one."""
    text = str(error)
    for pattern, meaning in _KNOWN.items():
        if re.search(pattern, text):
            return SkdError(f"{meaning} [{type(error).__name__}: {' '.join(text.split())[:200]}]")
    return None


def explains(then: str = "") -> Callable[[Callable[P, Path]], Callable[P, Path]]:
    """Makes a function raise `SkdError` for known failures; `then` is added to the message."""

    def decorate(function: Callable[P, Path]) -> Callable[P, Path]:
        @wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> Path:
            try:
                return function(*args, **kwargs)
            except (RuntimeError, ValueError) as error:  # torch's of all kinds are among these
                known = explained(error)
                if known is None:
                    raise
                raise SkdError(f"{known}{then}") from error

        return wrapped

    return decorate
