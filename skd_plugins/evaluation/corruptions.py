"""The corruptions of ImageNet-C and CIFAR-C for any images: ``skd evaluate RUN --corruptions``, or in `predict`.

For CIFAR-100 use the published files (``skd data cifar100c``). The photographs for ``frost`` come with
``pip install 'skd_plugins[corruptions]'``.

Source: Hendrycks and Dietterich 2019, with the parameters of the benchmark's ``make_cifar_c.py`` and
    ``make_imagenet_c.py`` (hendrycks/robustness), written with NumPy, SciPy and Pillow.
Deviation: random numbers differ, so images are not those of the published files. Motion blur follows ImageMagick, but
    without its intermediate rounding to 8 bits. Corruptions are applied to what the network sees (after resize and
    crop), not to the original file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.errors import SkdError, unknown
from ..common.meter import tracked
from ..data.datasets.cifar100c import CORRUPTIONS, SEVERITIES
from . import distortions
from .distortions import SMALL
from .metrics import top1
from .pixels import Normalised, generator_of, to_uint8
from .predictions import predict

# The parameters at severities 1 to 5 for small (CIFAR-C) and large (ImageNet-C) images.
_PARAMETERS: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # Shares of 244 in the benchmark, for images of 224.
        tuple(
            (244 / 224 * amount, 244 / 224 * sigma, 244 / 224 * corner)
            for amount, sigma, corner in (
                (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
            )
        ),
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}  # fmt: skip


def corrupt(image: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """A corrupted copy of an image ``[H, W, 3]`` of any size. The same seed and image give the same corruption.

    Images with a shorter side of up to 64 pixels take CIFAR-C's parameters, made for 32 pixels, larger ones
    ImageNet-C's, made for 224. Radii are in pixels and do not grow with the image.
    """
    if name not in _PARAMETERS:
        raise unknown("corruption", name, _PARAMETERS)
    if severity not in SEVERITIES:
        raise SkdError(f"the severity of {name} is 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise SkdError(f"corruptions take uint8 images [H, W, 3], got {image.dtype} {list(image.shape)}")
    small, large = _PARAMETERS[name]
    parameter = (small if min(image.shape[:2]) <= SMALL else large)[severity - 1]
    draw = generator_of(image, seed, f"{name}/{severity}")
    result = getattr(distortions, name)(image / 255, parameter, draw)
    # Round down, as the benchmark does, but allow for a whole number that rounding made 1e-13 smaller.
    return np.asarray(np.floor(np.clip(result, 0, 1) * 255 + 1e-6), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Corruption(Normalised):
    """`corrupt` for `predict`, computed on the CPU. An image's corruption does not depend on its batch."""

    name: str
    severity: int
    seed: int = 0

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The corrupted input. Model and target are not used."""
        images = to_uint8(self.to_pixels(input))
        changed = np.stack([corrupt(image, self.name, self.severity, seed=self.seed) for image in images])
        return self.from_pixels(torch.from_numpy(changed).permute(0, 3, 1, 2).to(input) / 255)


def corrupted_top1(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], *, mean: Sequence[float], std: Sequence[float]
) -> dict[str, list[float]]:
    """Accuracy under each of the fifteen corruptions at severities 1 to 5, each predicted in a pass of its own."""
    found: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for name, severity in tracked(list(product(CORRUPTIONS, SEVERITIES)), "corruptions"):
        perturb = Corruption(name=name, severity=severity, mean=mean, std=std)
        predictions = predict(model, loader, perturb=perturb)
        found[name].append(top1(predictions.logits, predictions.targets))
    return found


def corruption_accuracy(top1: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Accuracy under each corruption, averaged over severities, and ``mca``, the mean of the benchmark's fifteen.

    Source: SD-Dropout, section 4.4.2 and Table 6: mCA is the mean of the 15 accuracies printed. The severities are not
        given; the authors' script (yechanp/self_kd ``eval_cifiar_C.py``) takes all five together, which is their mean.
    Deviation: that script averages 19 corruptions, the four extra ones too; the table has 15, and so has this mean.

    Args:
        top1: accuracies at severities 1 to 5 of each corruption: all fifteen, and any extra ones.
    """
    accuracy = {name: float(np.mean(values)) for name, values in top1.items()}
    return accuracy | {"mca": float(np.mean([accuracy[name] for name in CORRUPTIONS]))}
