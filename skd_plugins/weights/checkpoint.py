"""Checkpoint files, written whole or not at all and read without running any code in them."""

import argparse
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..common.errors import SkdError, first_line

PREVIOUS = "previous.pt"  # beside last.pt
_NEEDED = {"card", "state_dict", "epoch", "step", "steps_per_epoch", "best", "best_epoch", "optimizer"}


def save(state: dict[str, Any], path: Path, also: Iterable[str] = ()) -> None:
    """Writes `state` so that `path` is always the old file or the new one, even after a power cut.

    The old file stays as `PREVIOUS`.

    Args:
        also: further names for the file, in its folder. They exist before `path` is replaced, so a run that resumes
            from `path` has them too.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # left by a killed run, or somebody's link
        with part.open("xb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name in also:
            keep_as(part, name)
        if path.exists():
            keep_as(path, PREVIOUS)
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # so that the new name is on the disk too
        os.close(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        with suppress(OSError):  # on a file system that has become read-only
            part.unlink(missing_ok=True)
        raise SkdError(
            f"can't write checkpoint {path}: {error}; the previous one is intact: make room, then continue with "
            "--resume"
        ) from error


def keep_as(path: Path, name: str) -> None:
    """Gives a file a second name in its folder, atomically; copies it only if the file system has no hard links."""
    part = path.with_name(f".{name}.part")
    part.unlink(missing_ok=True)
    try:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
        os.replace(part, path.with_name(name))
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint that a training can continue from."""
    state = read(path)
    if missing := _NEEDED - state.keys():
        raise SkdError(f"{path} is not a run's checkpoint: it has no {', '.join(sorted(missing))}")
    return state


def load_last(path: Path) -> dict[str, Any]:
    """Reads a checkpoint. If it is damaged or gone, the previous one takes its place, and a line says so."""
    previous = path.with_name(PREVIOUS)
    try:
        return load(path)
    except SkdError as error:
        if not previous.exists():
            raise
        state = load(previous)
        keep_as(previous, path.name)
        print(f"{error}; continuing from {PREVIOUS}, step {state['step']}", file=sys.stderr)
        return state


def read(path: Path) -> dict[str, Any]:
    """Reads a dictionary that torch saved, without running any code in the file."""
    try:
        if zipfile.is_zipfile(path):  # torch's old format is not, and has no checksums
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # torch writes CRC-32s, but does not check them when it reads
                    raise ValueError(f"the CRC-32 of its part {damaged} differs")
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments in timm's checkpoints
            state: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SkdError(f"checkpoint {path} does not exist") from None
    except Exception as error:  # torch's unpickler raises whatever the file's bytes lead to
        text = str(error)  # torch's often begins with the advice to run the file's code
        reason = (re.findall(r"Unsupported \w+ \d+", text) or [first_line(error)])[0]
        if culprit := re.search(r"GLOBAL (\S+)", text):
            reason = f"it contains a {culprit[1]}, which could run code; save it again without, as a plain state_dict"
        raise SkdError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(state, dict):
        raise SkdError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state
