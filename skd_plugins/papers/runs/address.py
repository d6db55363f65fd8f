"""The address of a run: a hash of everything that its result depends on, so that equal runs are trained once."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ...common.meter import Meter
from ...data.find import find_split
from ...recipe import Recipe

# Raised with a change that can move the numbers of a training (the changelog's "Numbers"): all runs are then repeated.
RESULTS_VERSION = 1
# Fields that leave the weights after the last epoch as they are (the first two say only what the recipe is called and
# what it is meant for; the data themselves are in the address).
_WITHOUT_EFFECT = frozenset({
    "name", "dataset", "eval_batch_size", "workers", "validate_every", "save_every", "save_minutes", "log_every",
    "trackers",
})  # fmt: skip
_LENGTH = 16  # hexadecimal digits: 64 bits, for some hundred runs


def address_of(recipe: Recipe, data: str, *, network: str = "") -> str:
    """The address of a training.

    Args:
        recipe: all fields count that can change the result, the arguments of the method too.
        data: checksum of the training data, see `data_checksum`.
        network: address of the run whose network it uses (a teacher).
    """
    fields = {name: value for name, value in recipe.to_json().items() if name not in _WITHOUT_EFFECT}
    return hash_of({"recipe": fields, "data": data, "version": RESULTS_VERSION, "network": network})


def hash_of(values: dict[str, Any]) -> str:
    """A hash of JSON values that does not depend on their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_LENGTH]


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
