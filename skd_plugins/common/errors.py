"""The one type of error that users see as a single line."""

import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import NoReturn, TypeVar

R = TypeVar("R")


class SkdError(Exception):
    """Bad input. The message is one line that names the problem and the way out.

    Commands print it without a traceback and exit with code 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> SkdError:
    """The error for a name that does not exist; its message suggests the closest one that does."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    return SkdError(f"unknown {kind} {name!r}; {hint}")


def first_line(error: Exception) -> str:
    """What the error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fail(error: Exception) -> NoReturn:
    """Prints the error as one line on stderr and exits with code 2."""
    if isinstance(error, BrokenPipeError):  # skd ... | head: nobody reads the rest, so Python must not flush it on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1)
    # torch's data loader puts the worker's traceback in front of the message.
    text = str(error).rpartition(f"{SkdError.__module__}.SkdError: ")[2]
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    raise SystemExit(2)


def one_line(main: Callable[..., R]) -> Callable[..., R]:
    """Makes an entry point report the user's and the operating system's errors as one line."""

    @wraps(main)
    def wrapped(*args: object, **kwargs: object) -> R:
        try:
            return main(*args, **kwargs)
        except (SkdError, OSError) as error:
            fail(error)

    return wrapped
