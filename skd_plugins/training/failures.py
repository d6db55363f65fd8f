"""Turns torch's known failures into one line with the way out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..common.errors import SkdError
from ..data.prefetch import READER_ADVICE, READER_DIED

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


@contextmanager
def explains(then: str = "") -> Iterator[None]:
    """Decorates a function: torch's known failures become `SkdError`; `then` is added to the message."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch's errors are all among these
        for pattern, meaning in _KNOWN.items():
            if re.search(pattern, str(error)):
                text = " ".join(str(error).split())[:200]
                raise SkdError(f"{meaning} [{type(error).__name__}: {text}]{then}") from error
        raise
