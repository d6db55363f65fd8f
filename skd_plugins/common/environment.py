"""What a result was made with: versions, commit, machine, data."""

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
    """The versions of this package, Python and the libraries that can change a number."""
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
    import torch  # this module also serves commands that start without torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    gpus = ", ".join(f"{cards.count(name)} x {name}" for name in dict.fromkeys(cards)) or "no GPU"
    return f"{names[0] if names else platform.machine()}, {cores} cores, {gpus}"


@cache
def git_commit() -> str | None:
    """The commit of this package's own checkout, with ``+changes`` if files were edited; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # A virtual environment inside another project's repository is not a checkout of this package.
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
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
