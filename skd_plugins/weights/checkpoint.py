"""Checkpoints that are whole or not there."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..common.errors import SkdError


def save(state: dict[str, Any], path: Path, also: Iterable[str] = ()) -> None:
    """Writes `state` so that `path` is at every moment the old file or the new one, also after a power cut.

    The further names in the folder, `also`, are given before `path`: who finds the new state there finds them too.

    Raises:
        SkdError: the disk is full or not writable; the old file is untouched.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name in also:
            keep_as(part, name)
        os.replace(part, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SkdError) as error:  # torch reports a full disk as RuntimeError
        with suppress(OSError):  # a file system that has become read-only does not even look for the file
            part.unlink(missing_ok=True)
        if isinstance(error, SkdError):  # of a further name
            raise
        raise _unwritten(path, error) from error


def keep_as(path: Path, name: str) -> None:
    """Gives a file a second name in its folder, atomically and without writing it again.

    Raises:
        SkdError: the disk is full or not writable.
    """
    part = path.with_name(f".{name}.part")
    try:
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:  # a file system without hard links
            part.write_bytes(path.read_bytes())
        os.replace(part, path.with_name(name))
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritten(path.with_name(name), error) from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without executing anything in it.

    Raises:
        SkdError: it is missing or not a checkpoint.
    """
    state = read(path)
    if "state_dict" not in state:
        raise SkdError(f"{path} is not a checkpoint: it has no 'state_dict'")
    return state


def read(path: Path) -> dict[str, Any]:
    """Reads a dictionary that torch saved, without executing anything in it.

    Raises:
        SkdError: it is missing or not readable.
    """
    try:
        _check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments, in timm's checkpoints
            state: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SkdError(f"checkpoint {path} does not exist") from None
    except SkdError:
        raise
    except Exception as error:  # torch's unpickler fails on any file with whatever its bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SkdError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(state, dict):
        raise SkdError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def _check_sums(path: Path) -> None:
    """Raises SkdError where bytes differ from the CRC-32s that torch writes and does not look at when it reads."""
    if not zipfile.is_zipfile(path):  # torch's old format, which has none
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise SkdError(f"{path} is not a readable checkpoint: the CRC-32 of its part {damaged} differs")


def _unwritten(path: Path, error: Exception) -> SkdError:
    return SkdError(
        f"can't write checkpoint {path}: {error}; the previous one is intact: make room, then continue with --resume"
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
