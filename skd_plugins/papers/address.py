"""The address of a run: a hash of everything that its result depends on, so that equal runs are trained once."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..recipe import Recipe

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
