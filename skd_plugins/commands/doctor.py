"""``skd doctor``: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "problem"]
_GIB = 2**30
_DETECTRON2 = "git+https://github.com/facebookresearch/detectron2.git"
_MAIN = ("torch", "torchvision", "timm", "accelerate")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        state: ``problem`` if something that the package is for won't work, ``note`` for what is optional or slow.
        what: the thing.
        found: what it is here.
        advice: what to do; empty if it is fine.
    """

    state: State
    what: str
    found: str
    advice: str = ""


def examine(folder: Path = Path()) -> Iterator[Finding]:
    """All checks. Args: folder is where runs would be written."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _devices, _ffcv, _detectron2, lambda: _disk(folder), _cache, _shared_memory, _files,
    ]  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # the doctor does not die of what it examines
            name = getattr(check, "__name__", "disk").strip("_").replace("_", " ")
            yield Finding("problem", name, f"the check failed: {type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    yield Finding("ok", "skd_plugins", f"{version('skd_plugins')} in {Path(__file__).parents[1]}")
    yield Finding("ok", "python", f"{platform.python_version()}, {platform.platform(terse=True)}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    needed = {
        requirement.name: requirement
        for requirement in map(Requirement, metadata.requires("skd_plugins") or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    for name in _MAIN:
        version = metadata.version(name)
        fits = name not in needed or needed[name].specifier.contains(version, prereleases=True)
        advice = "" if fits else f"pip install '{needed[name]}'"
        yield Finding("ok" if fits else "problem", name, version, advice)
    others = sorted(set(needed) - set(_MAIN))
    wrong = [str(needed[name]) for name in others if not _installed(needed[name])]
    if wrong:
        yield Finding("problem", "other packages", f"missing or of another version: {', '.join(wrong)}",
                      f"pip install {' '.join(repr(text) for text in wrong)}")  # fmt: skip
    else:
        yield Finding("ok", "other packages", f"all {len(others)} are there")


def _installed(requirement: object) -> bool:
    from packaging.requirements import Requirement

    assert isinstance(requirement, Requirement)
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "processor", f"{cores} cores for this process, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield Finding("ok", f"GPU {number}", f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB")
    elif torch.version.cuda is None:
        yield Finding("note", "GPU", "this torch is built without CUDA", "pytorch.org has the command for your driver")
    else:
        driver = Path("/proc/driver/nvidia/version").exists()
        yield Finding(
            "problem" if driver else "note", "GPU",
            f"none is seen (torch is built for CUDA {torch.version.cuda})",
            "there is an NVIDIA driver: see nvidia-smi, CUDA_VISIBLE_DEVICES, and whether the driver is new enough"
            if driver else "training runs on the processor: fine for the digits, not for ImageNet",
        )  # fmt: skip


def _ffcv() -> Iterator[Finding]:
    from ..data.beton import decode
    from ..data.beton.file import beton_available

    if not beton_available():
        yield Finding("note", "FFCV", "not installed: no .beton files, image folders work",
                      "in a checkout: make setup; else install libopencv-dev, libturbojpeg0-dev, pkg-config and g++, "
                      "then pip install 'skd_plugins[ffcv]'")  # fmt: skip
        return
    try:
        decode.ffcv()
    except OSError as error:
        advice = "install OpenCV 4 and libturbojpeg, then pip install --force-reinstall --no-deps ffcv"
        yield Finding("problem", "FFCV", f"its library can't be loaded: {error}", advice)
        return
    yield Finding("ok", "FFCV", metadata.version("ffcv"))
    if decode.native() is None:
        advice = "install g++ and libjpeg-dev (libjpeg-turbo 2.1 or later) and install skd_plugins again"
        yield Finding(
            "note", "decoder", "FFCV's; ours, which is faster and gives the same pixels, is not compiled", advice
        )
    else:
        yield Finding("ok", "decoder", "ours, with FFCV's pixels")


def _detectron2() -> Iterator[Finding]:
    if importlib.util.find_spec("detectron2") is None:
        yield Finding("note", "detectron2", "not installed: no detection",
                      "in a checkout: make setup; else pip install 'skd_plugins[detection]', then "
                      f"pip install --no-build-isolation '{_DETECTRON2}'")  # fmt: skip
        return
    try:
        module = importlib.import_module("detectron2")
        importlib.import_module("detectron2._C")
    except ImportError as error:
        yield Finding("problem", "detectron2", f"can't be imported: {error}",
                      "build it again with this torch: pip install --force-reinstall --no-build-isolation --no-deps "
                      f"'{_DETECTRON2}'")  # fmt: skip
        return
    yield Finding("ok", "detectron2", str(module.__version__))


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / _GIB
    few = free < 5
    advice = "a ResNet-152's checkpoints take about 1.5 GB, ImageNet as .beton 50 to 350 GB" if few else ""
    yield Finding("note" if few else "ok", "disk", f"{free:.0f} GiB free in {folder.resolve()}", advice)
    if not os.access(folder, os.W_OK):
        yield Finding("problem", "disk", f"{folder.resolve()} can't be written", "give --out another folder")


def _cache() -> Iterator[Finding]:
    from ..common.files import cache_folder

    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if os.access(existing, os.W_OK):
        yield Finding("ok", "cache of weights", str(folder))
    else:
        yield Finding("problem", "cache of weights", f"{folder} can't be written", "set SKD_CACHE to a folder that can")


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    size = shutil.disk_usage(folder).total / _GIB
    small = size < 1
    yield Finding("note" if small else "ok", "/dev/shm", f"{size:.2g} GiB",
                  "worker processes pass images of folders through it: docker run --shm-size=8g, or workers=0"
                  if small else "")  # fmt: skip


def _files() -> Iterator[Finding]:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= limit < 1024
    yield Finding("note" if few else "ok", "open files", str(limit), "ulimit -n 4096" if few else "")


def doctor(folder: Path = Path()) -> bool:
    """Prints all findings, a line each and a line of advice where there is one; whether there is no problem."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    colours = {"ok": "green", "note": "yellow", "problem": "bold red"}
    problems = 0
    for finding in examine(folder):
        problems += finding.state == "problem"
        console.print(
            Text.assemble((f"{finding.state:8s}", colours[finding.state]), f"{finding.what}: {finding.found}")
        )
        if finding.advice:
            console.print(Text(f"{'':8s}{finding.advice}"))
    print("no problems" if not problems else f"{problems} problem{'' if problems == 1 else 's'}")
    return not problems
