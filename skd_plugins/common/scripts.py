"""Runs a script that is not ours, with names of its libraries replaced."""

import runpy
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .errors import SkdError

Patch = tuple[Any, str, Any]  # an owner, the name of its attribute, and the value meanwhile


def run_patched(script: Path, arguments: Sequence[str], patches: Sequence[Patch]) -> None:
    """Runs `script` as the main program; everything that is replaced is put back at its end."""
    with ExitStack() as restore:
        for owner, name, value in [(sys, "argv", [str(script), *arguments]), *patches]:
            restore.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        runpy.run_path(str(script), run_name="__main__")


def check_script(script: Path, uses: str, hint: str) -> None:
    """Raises SkdError if the script can't be read, or does not use a library's function or class."""
    try:
        text = script.read_text(errors="replace")
    except OSError as error:
        raise SkdError(f"can't read {script} ({error.strerror}); {hint}") from None
    module, _, name = uses.rpartition(".")
    if module not in text or name not in text:
        raise SkdError(f"{script} does not use {uses}; {hint}")
