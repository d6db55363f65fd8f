"""The one error type that users see as a single line."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import NoReturn, TypeVar

R = TypeVar("R")


class SkdError(Exception):
    """Bad input. The message is one line that names the thing and the way out.

    Command lines print it without a traceback and exit with 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> SkdError:
    """An error for a name that is not registered, with the nearest one that is."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return SkdError(f"unknown {kind} {name!r}; {hint}")


def fail(error: Exception) -> NoReturn:
    """Prints the error as one line on stderr and exits with 2; silently with 1 if nobody reads the output any more."""
    if isinstance(error, BrokenPipeError):  # skd ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again at exit
        raise SystemExit(1)
    text = str(error).rsplit(f"{SkdError.__module__}.SkdError: ", 1)[
        -1
    ]  # torch's workers put their traceback before it
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    raise SystemExit(2)


def one_line(main: Callable[..., R]) -> Callable[..., R]:
    """Makes a command line's entry point report a user's or the system's error as one line, with exit code 2."""

    @wraps(main)
    def wrapped(*args: object, **kwargs: object) -> R:
        try:
            return main(*args, **kwargs)
        except (SkdError, OSError) as error:  # the system's own errors name the file and the reason
            fail(error)
        except UnicodeError as error:  # the system speaks another encoding than libraries expect of it
            encoding = locale.getpreferredencoding(False)
            if encoding.upper().replace("-", "") == "UTF8":
                raise
            fail(SkdError(f"{error}; this machine's language is written in {encoding}: set LC_ALL=C.UTF-8"))

    return wrapped
