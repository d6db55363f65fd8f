"""Compiles crop.c into a library beside it; run by ``make setup`` and by any installation.

It needs a C compiler (``cc``, or ``$CC``) and libjpeg-turbo 2.1 or later with headers (Debian, Ubuntu: libjpeg-dev).
Without it `.beton` files can't be read.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("crop.c")


class BuildError(Exception):
    """One line that says why there is no library."""


def library_path() -> Path:
    """The path of the library built from exactly this source; it may not exist yet."""
    return SOURCE.with_name(f"crop-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so")


def build() -> Path:
    """Compiles what is not yet compiled.

    Raises:
        BuildError: there is no compiler or no libjpeg-turbo.
    """
    target = library_path()
    if target.exists():
        return target
    part = target.with_suffix(f".{os.getpid()}.part")
    # No fused multiply-add, whatever a compiler's default is: the pixels would not be OpenCV's any more.
    flags = ["-std=gnu11", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fPIC", "-shared"]
    if platform.machine() == "x86_64":
        flags.append("-march=x86-64-v2")  # what NumPy's and torch's wheels need too
    command = [*shlex.split(os.environ.get("CC", "cc")), *flags, *_libjpeg("--cflags"), str(SOURCE), "-o", str(part)]
    try:
        _run([*command, *_libjpeg("--libs"), "-lm"])
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    for old in SOURCE.parent.glob("crop-*.so"):
        if old != target:
            old.unlink()
    return target


def _libjpeg(what: str) -> list[str]:
    """Where libjpeg is; without pkg-config, where the compiler looks."""
    try:
        return shlex.split(_run(["pkg-config", what, "libjpeg"]))
    except BuildError:
        return ["-ljpeg"] if what == "--libs" else []


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["failed"]
        raise BuildError(f"{command[0]}: {lines[0].strip()}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(f"decoder: {build().name}")
    except BuildError as error:
        print(f"decoder: not compiled ({error}); .beton files can't be read")
        sys.exit(1)
