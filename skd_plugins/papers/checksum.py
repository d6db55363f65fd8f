"""A checksum of training data, for the addresses of runs."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from ..data.splits import find_split
from ..meter import Meter

_SMALL = 100e6  # bytes of a folder whose files are read; of larger ones, ImageNet's say, names and sizes are taken


@cache
def data_checksum(folder: Path) -> str:
    """Of both halves: of `.beton` files the one that was taken when they were written, of image folders their files'.

    Raises:
        SkdError: there is no data.
    """
    return "+".join(_half(find_split(folder, train)) for train in (True, False))


def _half(path: Path) -> str:
    if path.is_dir():
        return _folder(path)
    described = path.with_name(path.name + ".json")
    if described.is_file():
        known = json.loads(described.read_text()).get("sha256")
        if isinstance(known, str):
            return known
    digest = hashlib.sha256()
    with path.open("rb") as file, Meter(f"checksum of {path.name}", path.stat().st_size) as meter:
        while block := file.read(1 << 24):
            digest.update(block)
            meter.advance(len(block))
    return digest.hexdigest()


def _folder(path: Path) -> str:
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    sizes = {name: file.stat().st_size for name, file in files}
    small = sum(sizes.values()) <= _SMALL
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name} {sizes[name]}\n".encode())
        if small:
            digest.update(file.read_bytes())
    return digest.hexdigest()
