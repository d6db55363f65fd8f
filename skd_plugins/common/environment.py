"""What a result was made with: versions, commit, machine, data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "ffcv", "detectron2", "numpy")


@cache
def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that can move a number."""
    found = {"skd_plugins": metadata.version("skd_plugins"), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> str:
    """The processor, the cores this process may use, and the GPUs, in words."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    gpus = ", ".join(f"{cards.count(name)} x {name}" for name in dict.fromkeys(cards)) or "no GPU"
    return f"{names[0] if names else platform.machine()}, {cores} cores, {gpus}"


@cache
def git_commit() -> str | None:
    """The commit this package runs from, with ``+changes`` if files differ from it; None outside a checkout of it."""
    folder = Path(__file__).resolve().parents[1]
    try:
        # An environment in somebody's repository is in a checkout too, but not of this package.
        if Path(_git(folder, "rev-parse", "--show-toplevel")) != folder.parent:
            return None
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def environment(data: Path | None = None, processes: int = 1) -> dict[str, Any]:
    """The record that goes into ``recipe.json``, cards and reports."""
    return {
        "versions": versions(),
        "commit": git_commit(),
        "machine": machine(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": str(data) if data else None,
        "processes": processes,
    }


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
