"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SkdError


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds a path against other processes that would write it, by a file beside it; makes its folder.

    The kernel releases the lock when the process ends, however it ends.

    Raises:
        SkdError: another process has it, or the folder can't be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise SkdError(f"can't write {path}: {error.strerror or error}; choose another folder") from None
    with file:
        try:
            # Of the process, not of the file as flock's: forked workers that outlive a killed process do not keep it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError  # who had it has removed this file since, and another one made it anew
        except (BlockingIOError, PermissionError, FileNotFoundError):
            raise SkdError(
                f"{path} is being written by another process; wait for it, or choose another folder"
            ) from None
        except OSError:  # a network's file system without locks
            pass
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def make_folder_once(path: Path, write: Callable[[Path], None]) -> None:
    """Makes a folder that is not there, whole or not at all; processes that come at once wait for the one that does.

    Args:
        path: the folder.
        write: writes its content to the folder that it is given, which is not there yet.
    """
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            shutil.rmtree(part, ignore_errors=True)
            write(part)
            os.replace(part, path)
