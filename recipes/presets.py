"""The papers' transforms, as fields of a `Recipe`: ``replace(recipe, **PRESETS["cskd/cifar100"])``.

Source: alinlab/cs-kd b447f25 ``datasets.py`` and yechanp/self_kd 9abb7e5 ``dataset.py``, which agree on every data set
that both have. For CIFAR, section 3.1 and footnote 6 of CS-KD say "random sized cropping for all tested methods", but
its code pads and crops; these presets follow the code. The filter of PIL and torchvision is bilinear there.
"""

from typing import Any

_IMAGENET: dict[str, Any] = {
    "augment": "rrc",
    "scale": (0.08, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "hflip": 0.5,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
_CIFAR: dict[str, Any] = {
    "augment": "shift",
    "padding": 4,
    "hflip": 0.5,
    "interpolation": "bilinear",
    "image_size": 32,
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
}
# RandomResizedCrop(224) and flip; Resize(256) and CenterCrop(224): the middle 224/256 of the shorter side.
_LARGE = _IMAGENET | {"image_size": 224, "crop_pct": 0.875}

PRESETS: dict[str, dict[str, Any]] = {
    # RandomCrop(32, padding=4) and flip; the test images as they are.
    "cskd/cifar100": _CIFAR,
    "sdd/cifar100": _CIFAR,
    # RandomResizedCrop(32) and flip; Resize(32) of the 64 x 64 pixels.
    "cskd/tinyimagenet": _IMAGENET | {"image_size": 32, "crop_pct": 1.0},
    **{f"cskd/{name}": _LARGE for name in ("cub200", "dogs", "mit67", "mixed", "imagenet-1k")},
    **{f"sdd/{name}": _LARGE for name in ("cub200", "dogs", "imagenet-1k")},
}
