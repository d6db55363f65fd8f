"""Export of a trained network as a plain state dict with a card."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from ..common.errors import SkdError
from ..common.files import atomic, file_sha256
from .load import Which, read_weights


def export_weights(
    checkpoint: str | Path, out: str | Path, *, name: str | None = None, which: Which = "last", ema: bool | None = None
) -> Path:
    """Writes ``OUT/ARCH.TAG.safetensors`` and its card ``ARCH.TAG.json``; returns the former.

    The keys are the plain timm or torchvision network's: ``model.load_state_dict(load_file(path))`` loads them.

    Args:
        checkpoint: as for `read_weights`, like `which` and `ema`.
        name: ``arch.tag``; the recipe's name by default.
    """
    weights, card = read_weights(checkpoint, which=which, ema=ema)
    name = name or card.get("name") or card["recipe"]["name"]
    path = Path(out) / f"{name}.safetensors"
    try:
        with atomic(path) as part, atomic(path.with_name(f"{name}.json")) as card_part:
            save_file({key: value.contiguous() for key, value in weights.items()}, part, metadata={"format": "pt"})
            card = card | {"name": name, "sha256": file_sha256(part), "size": part.stat().st_size}
            card_part.write_text(json.dumps(card, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise SkdError(f"can't write {path}: {error}; make room, or give another --out") from None
    return path
