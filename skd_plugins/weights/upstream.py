"""Weights that timm and torchvision publish, with a card like our own. These libraries download and keep the files."""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import nn
from torchvision import models

from ..common.errors import SkdError, unknown
from ..common.files import file_sha256
from ..networks.create import TIMMS_OWN, timm_name
from .download import one_line_errors
from .manifest import TRAIN_IT, WEIGHTS_FILE


def is_published(name: str) -> bool:
    """Whether the name is of the form ``timm/NAME.TAG`` or ``torchvision/NAME.WEIGHTS``."""
    return name.startswith(("timm/", "torchvision/"))


def create_published(name: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network with published weights, and a card. Without a tag in `name` they are the library's default ones."""
    library, _, rest = name.partition("/")
    with _errors(name):
        model, card = (_timm if library == "timm" else _torchvision)(rest, **arguments)
    return model, {"name": rest, "model_args": {}, "classes": None, "color": "RGB", "recipe": None} | card


def published_file(name: str, *, download: bool) -> Path:
    """The file of published weights in its library's cache, downloaded if asked; a damaged file is deleted."""
    library, _, rest = name.partition("/")
    with _errors(name):
        path = (_timm_file if library == "timm" else _torchvision_file)(rest, download)
        if path is None:
            raise SkdError(f"{name} is not in the cache; run: skd weights download {name}")
        # The Hub's cache names large files by their SHA-256; torch.hub puts its first digits at a name's end.
        digits = re.search(r"^[0-9a-f]{64}$|(?<=-)[0-9a-f]{8,64}(?=\.)", path.name)
        if digits and not file_sha256(path).startswith(digits[0]):
            path.unlink()
            raise SkdError(f"{path} was damaged (its SHA-256 does not begin {digits[0]}) and is deleted: try again")
    return path


def _errors(name: str) -> AbstractContextManager[None]:
    library = name.partition("/")[0]
    return one_line_errors(f"can't get the weights {name} from {library}", "without a network, give a file")


def _timm(name: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    model: Any = timm.create_model(_known(name), pretrained=True, **arguments)
    about = model.pretrained_cfg
    return model, {
        "model": name.partition(".")[0],
        "num_classes": about["num_classes"],
        **{key: list(about[key]) for key in ("input_size", "mean", "std")},
        "crop_pct": about["crop_pct"],
        "interpolation": about["interpolation"],
    }


def _known(name: str) -> str:
    """Returns the name if timm has its model and tag."""
    arch, _, tag = timm_name(name).partition(".")
    tags = [pretrained.partition(".")[2] for pretrained in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in tags and not name.startswith(TIMMS_OWN):
        error = unknown(f"tag of timm's {arch}", tag, tags)
        raise SkdError(f"{error}; {TRAIN_IT}")
    return name


def _timm_file(name: str, download: bool) -> Path | None:
    about = timm.get_pretrained_cfg(_known(name))
    if about is None or not about.hf_hub_id:
        raise SkdError(f"timm/{name} is not on the Hugging Face Hub; timm itself loads it from {about and about.url}")
    repository, _, revision = about.hf_hub_id.partition("@")
    file = about.hf_hub_filename or WEIGHTS_FILE
    get = hf_hub_download if download else try_to_load_from_cache
    path: Any = get(repository, file, revision=revision or None)
    return Path(path).resolve() if isinstance(path, str) else None  # the cache's own file, not the link to it


def _torchvision(name: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    weights = _torchvision_weights(name)
    published_file(f"torchvision/{name}", download=True)  # checked here, because torchvision does not check old files
    arch = name.partition(".")[0]
    pixels = weights.transforms()
    return models.get_model(arch, weights=weights, **arguments), {
        "model": f"torchvision/{arch}",
        "num_classes": len(weights.meta["categories"]),
        "classes": weights.meta["categories"],
        "input_size": [3, *pixels.crop_size * (2 // len(pixels.crop_size))],
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "crop_pct": pixels.crop_size[0] / pixels.resize_size[0],
        "interpolation": pixels.interpolation.value,
    }


def _torchvision_weights(name: str) -> Any:
    arch, _, tag = name.partition(".")
    if arch not in models.list_models(module=models):
        raise unknown("torchvision model", arch, models.list_models(module=models))
    choices = models.get_model_weights(arch)
    if tag and tag not in choices.__members__:
        raise unknown(f"weights of torchvision's {arch}", tag, choices.__members__)
    return choices[tag or "DEFAULT"]


def _torchvision_file(name: str, download: bool) -> Path | None:
    url: str = _torchvision_weights(name).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        if not download:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    return path
