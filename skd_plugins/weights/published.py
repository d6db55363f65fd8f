"""Weights that timm and torchvision publish, with a card like our own. The libraries download and keep them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..common.errors import SkdError, unknown
from ..common.files import file_sha256
from . import checkpoint
from .manifest import WEIGHTS_FILE
from .transfer import unwritable

_PREFIXES = ("timm/", "torchvision/")


def is_published(name: str) -> bool:
    """Whether the name is of the form ``timm/NAME.TAG`` or ``torchvision/NAME.WEIGHTS``."""
    return name.startswith(_PREFIXES)


def read_published(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and a card of published weights; see `create_published`."""
    model, card = create_published(name)
    return model.state_dict(), card


def create_published(name: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network with published weights, and a card, downloaded by the library that publishes them.

    Args:
        name: ``timm/resnet152.tv_in1k``, or ``torchvision/resnet50.IMAGENET1K_V1``; without a tag, the library's
            default weights.
        arguments: passed to the library's constructor.

    Raises:
        SkdError: there are no such weights, or they could not be had.
        TypeError: the constructor refuses an argument.
    """
    library, _, rest = name.partition("/")
    model, card = (_timm if library == "timm" else _torchvision)(rest, arguments)
    return model, {"name": rest, "classes": None, "color": "RGB", "recipe": None} | card


def published_file(name: str, *, download: bool) -> Path:
    """The file of published weights in the library's own cache, checked where the library states a checksum.

    Args:
        name: see `create_published`.
        download: get it, if it is not there.

    Raises:
        SkdError: it is not there or could not be had; or it is not what its checksum says, and is deleted.
    """
    library, _, rest = name.partition("/")
    with _one_line(name):
        path, expected = (_timm_file if library == "timm" else _torchvision_file)(rest, download)
        if path is None:
            raise SkdError(f"{name} is not in the cache: skd weights download {name}")
        if expected and not file_sha256(path).startswith(expected):
            try:
                path.unlink()
            except OSError as error:
                raise unwritable(path, error) from None
            raise SkdError(f"{path} was not what its checksum {expected} says and is deleted: try again")
    return path


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """What a download can raise differs between versions of three libraries."""
    try:
        yield
    except (SkdError, TypeError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        library = name.partition("/")[0]
        raise SkdError(
            f"weights {name!r} could not be had from {library}: {reason}; without a network, give a file"
        ) from error


def _timm(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    _check_timm(name)
    with _one_line(f"timm/{name}"):
        model: Any = timm.create_model(name, pretrained=True, **arguments)
    about = model.pretrained_cfg
    return model, {
        "model": name.partition(".")[0], "model_args": {}, "num_classes": about["num_classes"],
        "input_size": list(about["input_size"]), "mean": list(about["mean"]), "std": list(about["std"]),
        "crop_pct": about["crop_pct"], "interpolation": about["interpolation"],
    }  # fmt: skip


def _check_timm(name: str) -> None:
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        raise unknown("timm model", arch, timm.list_models())
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in tags:
        raise unknown(f"tag of timm's {arch}", tag, tags)


def _timm_file(name: str, download: bool) -> tuple[Path | None, str | None]:
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    _check_timm(name)
    about = timm.get_pretrained_cfg(name)
    if about is None or not about.hf_hub_id:
        raise SkdError(f"timm/{name} is not on the Hugging Face Hub; timm itself loads it from {about and about.url}")
    repository, _, revision = about.hf_hub_id.partition("@")
    file = about.hf_hub_filename or WEIGHTS_FILE
    if download:
        path = Path(hf_hub_download(repository, file, revision=revision or None))
    else:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if not isinstance(found, str):
            return None, None
        path = Path(found)
    blob = path.resolve()  # the Hub's cache calls large files by their SHA-256
    return blob, blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else None


def _torchvision(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    weights = _torchvision_weights(name)
    # The library loads its pickles without restrictions: this file has its checksum and no code in it.
    checkpoint.read(published_file(f"torchvision/{name}", download=True))
    arch = name.partition(".")[0]
    pixels = weights.transforms()
    return models.get_model(arch, weights=weights, **arguments), {
        "model": f"torchvision/{arch}", "model_args": {}, "num_classes": len(weights.meta["categories"]),
        "classes": weights.meta["categories"], "input_size": [3, *pixels.crop_size * (2 // len(pixels.crop_size))],
        "mean": list(pixels.mean), "std": list(pixels.std), "crop_pct": pixels.crop_size[0] / pixels.resize_size[0],
        "interpolation": pixels.interpolation.value,
    }  # fmt: skip


def _torchvision_weights(name: str) -> Any:
    from torchvision import models

    arch, _, tag = name.partition(".")
    if arch not in models.list_models(module=models):
        raise unknown("torchvision model", arch, models.list_models(module=models))
    choices = models.get_model_weights(arch)
    if tag and tag not in choices.__members__:
        raise unknown(f"weights of torchvision's {arch}", tag, choices.__members__)
    return choices[tag or "DEFAULT"]


def _torchvision_file(name: str, download: bool) -> tuple[Path | None, str | None]:
    import torch

    url: str = _torchvision_weights(name).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = re.search(r"-([0-9a-f]{8,64})\.", path.name)  # torch.hub's convention: the start of the SHA-256
    if not path.exists():
        if not download:
            return None, None
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digits[1] if digits else None)
    return path, digits[1] if digits else None
