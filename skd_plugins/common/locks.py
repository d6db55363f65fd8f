"""One writer at a time."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from .errors import SkdError


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Refuses a second process that wants to write `path`, until the block or this process ends.

    This is not filelock because that uses `flock`, which forked workers inherit: when the writer is killed, workers
    that outlive it would keep the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Others may be allowed to write in this folder: follow no link of theirs, and empty no file.
        file = open(lock, "a", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))  # noqa: SIM115
    except OSError as error:
        raise SkdError(f"can't write {path}: {error.strerror or error}; choose another folder") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner may have removed this file, and somebody else locked a new one.
            mine = os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, PermissionError, FileNotFoundError):
            mine = False
        except OSError:  # a network file system without locks
            mine = True
        if not mine:
            raise SkdError(f"{path} is being written by another process; wait for it, or choose another folder")
        try:
            yield
        finally:
            with suppress(OSError):  # gone, or the file system has become read-only
                lock.unlink()


def make_folder_once(path: Path, write: Callable[[Path], None]) -> None:
    """Makes a missing folder completely or not at all; other processes wait until it is there.

    Args:
        path: the folder to make.
        write: makes and fills the temporary folder that it is given.
    """
    if path.is_dir():  # also in a cache that this process can't write to
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_dir():
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            shutil.rmtree(part, ignore_errors=True)
            write(part)
            os.replace(part, path)
