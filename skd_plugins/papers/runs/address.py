"""The address of a run: a hash of everything that its result depends on, so that equal runs are trained once."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ...common.files import file_sha256
from ...common.typed import read_json
from ...data.find import find_split
from ...recipe import Recipe

# Raised with every change that can move the numbers of a training (the changelog's "Numbers"): all runs are repeated.
RESULTS_VERSION = 2
DETECTORS_VERSION = 3  # the same for detectors, whose backbones' addresses have the other one
# Fields that leave the final weights as they are. The name and the data set are labels: the data have a checksum.
_WITHOUT_EFFECT = frozenset({
    "name", "dataset", "eval_batch_size", "workers", "validate_every", "save_every", "save_minutes", "log_every",
    "trackers",
})  # fmt: skip
# Added when there were runs already: switched off, such a field leaves the address of a run as it was.
_ADDED = frozenset({
    "vflip", "auto_augment", "color_jitter", "grayscale", "random_erasing", "repeated_augmentation", "loss",
    "bce_sum", "bce_threshold", "layer_decay", "clip_mode", "ema_warmup", "freeze", "optimizer_args",
})  # fmt: skip
_OFF = {name: getattr(Recipe(name="default"), name) for name in _ADDED}
_LENGTH = 16  # hexadecimal digits: 64 bits, for some hundred runs
_SMALL = 100e6  # bytes; of larger image folders, such as ImageNet's, only names and sizes are hashed


def address_of(recipe: Recipe, data: str, *, network: str = "") -> str:
    """The address of a training on data with this checksum, from the network of another run (a teacher)."""
    values = {name: value for name, value in recipe.to_json().items() if name not in _WITHOUT_EFFECT}
    values = {name: value for name, value in values.items() if name not in _OFF or value != _OFF[name]}
    return hash_of({"recipe": values, "data": data, "version": RESULTS_VERSION, "network": network})


def hash_of(values: dict[str, Any]) -> str:
    """A hash of JSON values that does not depend on their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_LENGTH]


@cache
def data_checksum(folder: Path) -> str:
    """A checksum of both halves of a data folder; for a `.beton` file the one that its writer noted."""
    return "+".join(_half(find_split(folder, train)) for train in (True, False))


def _half(path: Path) -> str:
    if path.is_dir():
        return _image_folder(path)
    description = path.with_name(f"{path.name}.json")
    noted = read_json(description, what="a description of data").get("sha256") if description.is_file() else None
    return noted or file_sha256(path)


def _image_folder(path: Path) -> str:
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    sizes = {name: file.stat().st_size for name, file in files}
    small = sum(sizes.values()) <= _SMALL
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name} {sizes[name]}\n".encode())
        if small:
            digest.update(file.read_bytes())
    return digest.hexdigest()
