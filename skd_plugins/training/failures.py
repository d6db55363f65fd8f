"""What torch says when a training or an evaluation can't go on, as one line with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from ..common.errors import SkdError
from ..data.fetch import READER_ADVICE, READER_DIED

P = ParamSpec("P")

# What torch's message contains, and ours; the rest is passed on as it is, since it may be a mistake in the code.
_KNOWN = {
    READER_DIED.pattern: READER_ADVICE,  # torch says it by a signal's handler, wherever the program is just then
    r"gloo|NCCL|Application timeout|Connection (closed|reset|refused)|[Tt]imed out|waiting for clients|Broken pipe": (
        "another process of this training died or did not answer (timeout_minutes); its own output says why"
    ),
    r"Expected more than 1 value per channel": (
        "a training batch has only one image, which BatchNorm can't use; choose a batch_size that leaves more for the "
        "last batch of an epoch, on every process"
    ),
    r"does not have a deterministic implementation": (
        "deterministic=true, but the network needs an operation that torch can only do otherwise; leave it out"
    ),
    r"out of memory|can't allocate memory|not enough memory": (
        "out of memory; take a smaller batch_size, or the same with grad_accumulation=2 or more"
    ),
}


def explained(error: Exception) -> SkdError | None:
    """An error with the way out, None if this one is not known."""
    text = str(error)
    for pattern, meaning in _KNOWN.items():
        if re.search(pattern, text):
            return SkdError(f"{meaning} [{type(error).__name__}: {' '.join(text.split())[:200]}]")
    return None


def explains(then: str = "") -> Callable[[Callable[P, Path]], Callable[P, Path]]:
    """Makes a training or evaluation raise `SkdError` for what is known to happen to it.

    Args:
        then: what follows the message, how to go on.
    """

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
