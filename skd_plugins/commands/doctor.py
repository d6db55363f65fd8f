"""``skd doctor``: what this machine has, what is missing, and how to get it."""

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from ..common.environment import machine, versions
from ..common.errors import SkdError
from ..common.files import cache_folder

_GIB = 2**30


class Finding(NamedTuple):
    """What a check found: a problem, or a note if it has advice."""

    what: str
    found: str
    advice: str = ""
    problem: bool = False


def doctor() -> None:
    """Check this machine: versions, GPUs, FFCV, detectron2, disk and shared memory. A problem gives exit code 1."""
    console = Console(soft_wrap=True, highlight=False)
    problems = 0
    for finding in examine():
        problems += finding.problem
        note = ("note", "yellow") if finding.advice else ("ok", "green")
        state, colour = ("problem", "bold red") if finding.problem else note
        console.print(Text.assemble((f"{state:8s}", colour), f"{finding.what}: {finding.found}"))
        if finding.advice:
            console.print(Text(f"{'':8s}{finding.advice}"))
    print("no problems" if not problems else f"{problems} problem{'' if problems == 1 else 's'}")
    if problems:
        raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """Runs all checks. A check that fails, for example because torch can't be imported, is itself a finding."""
    for check in (_packages, _gpu, _ffcv, _detectron2, _disk):
        try:
            yield from check()
        except Exception as error:
            yield Finding(check.__name__[1:], f"the check failed: {type(error).__name__}: {error}", problem=True)


def _packages() -> Iterator[Finding]:
    yield Finding("package", str(Path(__file__).parents[1]))
    yield from (Finding(name, version) for name, version in versions().items())
    for requirement in map(Requirement, metadata.requires("skd_plugins") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": "train"}):
            continue
        try:
            installed = metadata.version(requirement.name)
            fits = requirement.specifier.contains(installed, prereleases=True)
        except metadata.PackageNotFoundError:
            installed, fits = "missing", False
        if not fits:
            yield Finding(requirement.name, installed, f"pip install '{requirement}'", problem=True)


def _gpu() -> Iterator[Finding]:
    import torch  # here, so that a broken torch is a finding

    yield Finding("machine", f"{machine()}, {platform.platform(terse=True)}")
    if torch.cuda.is_available():
        return
    cuda = torch.version.cuda
    driver = Path("/proc/driver/nvidia/version").exists()
    advice = "training runs on the processor: fine for the digits, not for ImageNet"
    if driver:
        advice = "there is an NVIDIA driver: check nvidia-smi, CUDA_VISIBLE_DEVICES and the CUDA version it supports"
    found = f"torch finds none; it is built {f'for CUDA {cuda}' if cuda else 'without CUDA'}"
    yield Finding("GPU", found, advice, problem=driver and cuda is not None)


def _ffcv() -> Iterator[Finding]:
    from ..data.beton import file  # here, because it imports NumPy

    try:
        file.library()
        yield Finding("decoder", "compiled, reads .beton files")
    except SkdError as error:
        found, _, advice = str(error).partition(": install ")
        yield Finding("decoder", found, f"install {advice}")
    try:
        importlib.import_module("ffcv")
    except (ImportError, OSError) as error:
        libraries = "libopencv-dev, libturbojpeg0-dev, pkg-config and g++"
        advice = f"make setup, or install {libraries}, then pip install --force-reinstall --no-deps ffcv"
        missing = isinstance(error, ModuleNotFoundError)
        found = "not installed; writing .beton files needs it" if missing else str(error)
        yield Finding("FFCV", found, advice, problem=not missing)


def _detectron2() -> Iterator[Finding]:
    try:
        importlib.import_module("detectron2._C")  # compiled for one version of torch
        yield Finding("detectron2", str(importlib.import_module("detectron2").__version__))
    except ImportError as error:
        advice = (
            "make setup, or pip install 'skd_plugins[detection]', then pip install --force-reinstall --no-deps "
            "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
        )
        installed = importlib.util.find_spec("detectron2") is not None
        yield Finding("detectron2", f"no detection: {error}", advice, problem=installed)


def _disk() -> Iterator[Finding]:
    for what, folder, option in (("disk", Path.cwd(), "--out"), ("cache of weights", cache_folder(), "SKD_CACHE")):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(what, f"{folder} can't be written", f"set {option} to another folder", problem=True)
            continue
        free = shutil.disk_usage(existing).free / _GIB
        advice = "a ResNet-152's checkpoints take about 1.5 GB, ImageNet as .beton 50 to 350 GB"
        yield Finding(what, f"{free:.0f} GiB free in {folder}", advice if free < 5 else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / _GIB
        advice = "worker processes pass images of folders through it: docker run --shm-size=8g, or workers=0"
        yield Finding("/dev/shm", f"{size:.2g} GiB", advice if size < 1 else "")
