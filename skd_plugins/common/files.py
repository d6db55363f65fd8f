"""Atomic writes, checksums, and JSON that every parser reads."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import SkdError
from .meter import tracked


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary file in the same folder, which replaces `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # left by a killed process, or somebody's link
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors replaces the file with one that only its owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `json_text` atomically."""
    write_text(path, json_text(value))


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON with a newline at its end, and null for numbers that are not finite."""
    return json.dumps(jsonable(value), indent=indent, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Converts a value to plain lists, dicts, numbers and strings."""
    if hasattr(value, "tolist"):  # numpy arrays and scalars, tensors
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def checksum(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file, with progress on stderr if the file is large."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        for block in tracked(blocks, f"checksum of {path.name}", path.stat().st_size, file.tell):
            digest.update(block)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    return checksum(path, "sha256")


def cache_folder() -> Path:
    """The folder for data and weights: ``SKD_CACHE``, or skd_plugins in the user's cache folder."""
    if os.environ.get("SKD_CACHE"):
        return Path(os.environ["SKD_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skd_plugins"
    except RuntimeError:
        raise SkdError("this user has no home folder; set SKD_CACHE=FOLDER for data and weights") from None
