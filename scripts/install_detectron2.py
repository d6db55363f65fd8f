"""Installs detectron2 into an environment: from its official repository, else from the copy on PyPI.

Usage: python scripts/install_detectron2.py .venv/bin/python [--force] [--source official|pypi]

detectron2 has no release on PyPI that builds. If the official repository can be reached, a fixed commit of it is built
from source. Otherwise the package ``pb1-detectron2`` is used, which has all Python files of 0.6 but no C++ sources. It
is changed to run with today's packages: it builds no extension modules, its ``detectron2._C`` is a module that names
the missing operator when one is called, a name that Pillow 10 removed is replaced, and unused requirements are dropped.
Faster R-CNN needs none of the missing operators (its ROIAlign and NMS are torchvision's).

The environment must already have torch, setuptools and the packages of the extra ``detection``.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main of 2026-06, tried with torch 2.13
COPY = "pb1-detectron2==0.6"
DOWNLOADER = "pip==24.3.1"  # uv downloads no sdists, and newer pips refuse the copy's metadata (a URL in an extra)
UV = Path(__file__).resolve().with_name("uv.sh")

STUB = '''\
"""Stands in for detectron2's compiled operators, which its copy on PyPI lacks."""


def get_compiler_version():
    """Part of detectron2's description of the environment."""
    return "none (copy from PyPI)"


def get_cuda_version():
    """Part of detectron2's description of the environment."""
    return "none (copy from PyPI)"


def has_cuda():
    """Part of detectron2's description of the environment."""
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(
        f"detectron2's operator {name!r} is compiled, and this is the copy from PyPI, which has none (rotated boxes, "
        "deformable convolution, fast COCO evaluation; give COCOEvaluator use_fast_impl=False). With network access, "
        "install the official one: python scripts/install_detectron2.py PYTHON --force --source official"
    )
'''


class InstallError(Exception):
    """One line that says what failed."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("python", help="the environment's interpreter")
    parser.add_argument("--force", action="store_true", help="install again although it can be imported")
    parser.add_argument("--source", choices=["official", "pypi"], help="only this one (default: official, else PyPI)")
    parser.add_argument("--repository", default=REPOSITORY, help="the official repository, or a mirror of it")
    arguments = parser.parse_args()
    try:
        if arguments.force or not is_importable(arguments.python):
            print(f"detectron2: {install(arguments.python, arguments.source, arguments.repository)}")
    except InstallError as error:
        print(f"error: detectron2 is not installed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def is_importable(python: str) -> bool:
    """Whether the environment has a detectron2 that imports."""
    probe = "import detectron2.layers, detectron2.modeling"
    return subprocess.run([python, "-c", probe], capture_output=True).returncode == 0


def install(python: str, source: str | None, repository: str) -> str:
    """Installs detectron2, checks that it imports, and returns where it came from."""
    sources: dict[str, Callable[[], str]] = {
        "official": lambda: install_official(python, repository),
        "pypi": lambda: install_copy(python),
    }
    run([python, "-c", "import setuptools, torch"])
    failures = []
    for name in [source] if source else list(sources):
        try:
            origin = sources[name]()
            run([python, "-c", "import detectron2.layers, detectron2.modeling"])
            return origin + "".join(f" ({failure})" for failure in failures)
        except InstallError as error:
            failures.append(f"{name}: {error}")
    raise InstallError("; ".join(failures))


def install_official(python: str, repository: str) -> str:
    """Builds the official repository's fixed commit."""
    run(["git", "ls-remote", repository, "HEAD"], timeout=10)
    print(f"detectron2: building {repository} (some minutes)", flush=True)
    replace_installed(python, f"git+{repository}@{COMMIT}")
    return f"official repository, commit {COMMIT[:10]}"


def install_copy(python: str) -> str:
    """Installs the PyPI copy, changed for today's packages."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        run([str(UV), "pip", "install", "--python", python, "--target", str(folder / "pip"), DOWNLOADER])
        download = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder), COPY]
        # Run by the environment's Python, because the copy's setup.py imports torch. FORCE_CUDA would want nvcc.
        run([python, "-m", "pip", "download", *download], PYTHONPATH=str(folder / "pip"), FORCE_CUDA="0")
        source = unpack(folder)
        patch(source)
        replace_installed(python, str(source))
    return f"{COPY} from PyPI, without compiled operators"


def replace_installed(python: str, what: str) -> None:
    """Installs `what`, built with the environment's torch, and removes any other detectron2."""
    run([str(UV), "pip", "uninstall", "--python", python, "detectron2", "pb1-detectron2"])
    run([str(UV), "pip", "install", "--python", python, "--no-deps", "--no-build-isolation", what])


def unpack(folder: Path) -> Path:
    """Unpacks the one source archive in `folder`; returns the folder with its setup.py."""
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"expected one source archive, found {len(archives)}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder / "source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (setup,) = (folder / "source").glob("*/setup.py")
    return setup.parent


def patch(source: Path) -> None:
    """Changes the unpacked PyPI copy so that it installs and runs with today's Pillow."""
    for pattern in (r"ext_modules=get_extensions\(\),", '"future",', '"pydot",', '"black==.*",'):
        replace_once(source / "setup.py", rf"^ *{pattern}.*\n", "")
    replace_once(source / "detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR")
    (source / "detectron2/_C.py").write_text(STUB)


def replace_once(path: Path, pattern: str, replacement: str) -> None:
    """Replaces a pattern that must occur exactly once in the file."""
    text, count = re.subn(pattern, replacement, path.read_text() if path.is_file() else "", flags=re.MULTILINE)
    if count != 1:
        raise InstallError(f"{path.name} of the PyPI copy has {pattern!r} {count} times, not once")
    path.write_text(text)


def run(command: list[str], *, timeout: float | None = None, **environment: str) -> None:
    """Runs a command; an error has the last line that it printed."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment}
    try:
        done = subprocess.run(command, env=environment, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise InstallError(f"no answer to {short(command)} in {timeout:g} s") from None
    except OSError as error:
        raise InstallError(f"{short(command)}: {error.strerror}") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        raise InstallError(f"{short(command)}: {lines[-1].strip().removeprefix('fatal: ')}")


def short(command: list[str]) -> str:
    """The command's first words, for messages."""
    return " ".join([Path(command[0]).name, *command[1:2]])


if __name__ == "__main__":
    main()
