"""Crop boxes and flips of a whole batch, the same for `.beton` files and folders."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..common.errors import SkdError
from ..common.rng import keys, uniform

_TRIES = 10
_FLIP = 2 * _TRIES + 2  # the draw for the horizontal flip; the next is for the vertical one
TRIVIAL = "ta_wide"  # torchvision's name for TrivialAugment; timm has none
# timm ignores a part of the text that it does not know, and stops with an AssertionError at others.
_AUTO_AUGMENT = re.compile(
    r"rand(-(m\d+|n[1-9]|p(0?\.\d+|[01])|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3a|3aw)))*"
    r"|augmix(-(m\d+|w[1-9]|d[1-9]|b[01]|a(?!0*\.?0*(-|$))\d+(\.\d+)?|mstd\d+(\.\d+)?))*"
    rf"|(v0r?|originalr?|3a)(-mstd\d+(\.\d+)?)?|{TRIVIAL}"
)
_SHARES = ("hflip", "vflip", "grayscale", "random_erasing")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How an image becomes a network's input.

    Attributes:
        image_size: side of the square input, in pixels.
        sizes: (first epoch, side) of the training images, in ascending order, if their side is not `image_size` in all
            epochs. Boxes and flips do not depend on it.
        mode: the training crop. ``rrc`` is torchvision's RandomResizedCrop; ``shift`` is RandomCrop with `padding`
            black pixels around the image, as for CIFAR.
        scale: range of the crop's area relative to the image (``rrc``).
        ratio: range of the crop's aspect ratio (``rrc``).
        padding: largest shift, in pixels of the output (``shift``).
        hflip: probability of a horizontal flip; `vflip` of a vertical one.
        auto_augment: timm's text for RandAugment (``rand-m9-mstd0.5-inc1``), AugMix (``augmix-m3-w3``), AutoAugment
            (``original``, ``v0``) or 3-Augment (``3a``), or torchvision's ``ta_wide`` (TrivialAugment). None for none.
        color_jitter: by how much brightness, contrast and saturation vary: their factors are from 1 - it to 1 + it.
        grayscale: probability that an image loses its colours.
        random_erasing: probability of timm's random erasing, which fills a box with noise after normalisation (and
            after mixup, as timm does).
        erasing_mode: what fills the box: ``pixel`` is noise, ``rand`` one random colour, ``const`` the mean colour.
        erasing_count: largest number of boxes an image.
        crop_pct: side of the evaluation crop relative to the image's shorter side.
        interpolation: PIL's filter for folders, and of `auto_augment`; ``random`` is for the latter only (bilinear or
            bicubic). `.beton` files are resized with OpenCV's area filter, as FFCV does.
        mean: channel means that the pixels are normalised with, in [0, 1].
        std: their standard deviations.
    """

    image_size: int = 224
    sizes: tuple[tuple[int, int], ...] = ()
    mode: Literal["rrc", "shift"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    hflip: float = 0.5
    vflip: float = 0.0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    grayscale: float = 0.0
    random_erasing: float = 0.0
    erasing_mode: Literal["pixel", "rand", "const"] = "pixel"
    erasing_count: int = 1
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest", "random"] = "bilinear"
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        # An empty box, or an evaluation box that reaches outside the image, would make OpenCV end the process.
        for name, fine, what in (
            ("image_size", self.image_size >= 1, "at least 1"),
            ("sizes", all(side >= 1 for _, side in self.sizes), "pairs of an epoch and a side of at least 1"),
            ("sizes", [*self.sizes] == sorted(self.sizes, key=lambda pair: pair[0]), "in ascending order of epochs"),
            ("mode", self.mode in ("rrc", "shift"), "'rrc' or 'shift'"),
            ("scale", 0 <= self.scale[0] <= self.scale[1] <= 1, "two ascending numbers from 0 to 1"),
            ("ratio", 0 < self.ratio[0] <= self.ratio[1] < np.inf, "two ascending numbers above 0"),
            ("padding", self.padding >= 0, "at least 0"),
            *((name, 0 <= getattr(self, name) <= 1, "from 0 to 1") for name in _SHARES),
            (
                "auto_augment",
                self.auto_augment is None or _AUTO_AUGMENT.fullmatch(self.auto_augment),
                "timm's rand-m9-mstd0.5-inc1 (also n, p, mmax, tweights, t3a, t3aw), augmix-m3-w3 (also d, b, a, mstd)"
                f", original, originalr, v0, v0r or 3a (each also with -mstd0.5), or torchvision's {TRIVIAL}",
            ),
            ("color_jitter", self.color_jitter >= 0, "at least 0"),
            ("erasing_mode", self.erasing_mode in ("pixel", "rand", "const"), "'pixel', 'rand' or 'const'"),
            ("erasing_count", self.erasing_count >= 1, "at least 1"),
            ("crop_pct", 0 < self.crop_pct <= 1, "above 0 and at most 1"),
            ("std", min(self.std) > 0, "above 0"),
        ):
            if not fine:
                raise SkdError(f"{name} should be {what}, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, recipe: Any) -> "Augmentation":
        """The augmentation that a `Recipe` describes; its fields have the same names, and `augment` is the mode."""
        names = {field.name for field in fields(cls)} - {"mode", "sizes", "erasing_mode", "erasing_count"}
        sizes = tuple((int(share * recipe.epochs), side) for share, side in recipe.train_sizes)
        return cls(mode=recipe.augment, sizes=sizes, **{name: getattr(recipe, name) for name in names})

    @property
    def changes_pixels(self) -> bool:
        """Whether images change in more than crop, flips and erasing. Then worker processes make them."""
        return bool(self.auto_augment or self.color_jitter or self.grayscale)

    def size(self, epoch: int) -> int:
        """Side of an epoch's training images, in pixels."""
        return next((side for first, side in reversed(self.sizes) if first <= epoch), self.image_size)


def training_boxes(
    spec: Augmentation,
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    *,
    seed: int,
    epoch: int,
    positions: NDArray[np.integer],
    segments: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Random crops for images of the given sizes; all arrays are ``[n]``.

    Args:
        positions: each image's anchor position in the epoch.
        segments: each image's segment number.

    Returns:
        boxes ``[n, 4]`` as (top, left, height, width), which reach outside the image for ``shift``; which
        images ``[n]`` are flipped horizontally; which vertically.
    """
    draws = uniform(keys(seed, epoch, positions, segments), _FLIP + 2)
    flips = draws[:, _FLIP] < spec.hflip, draws[:, _FLIP + 1] < spec.vflip
    if spec.mode == "shift":
        # The image is scaled to the output first, so a shift of one output pixel is height / size pixels.
        steps = np.floor(draws[:, :2] * (2 * spec.padding + 1)).astype(np.int64) - spec.padding
        top, left = (np.rint(steps[:, i] * side / spec.size(epoch)) for i, side in enumerate((heights, widths)))
        return np.stack([top, left, heights, widths], axis=1).astype(np.int64), *flips
    return _resized_crops(spec, heights.astype(np.float64), widths.astype(np.float64), draws), *flips


def _resized_crops(
    spec: Augmentation, heights: NDArray[np.float64], widths: NDArray[np.float64], draws: NDArray[np.float64]
) -> NDArray[np.int64]:
    """torchvision's RandomResizedCrop.get_params for a batch: the first of ten tries that fits, else a centre crop."""
    low, high = spec.scale
    area = (heights * widths)[:, None] * (low + (high - low) * draws[:, :_TRIES])
    log_low, log_high = np.log(spec.ratio[0]), np.log(spec.ratio[1])
    aspect = np.exp(log_low + (log_high - log_low) * draws[:, _TRIES : 2 * _TRIES])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= widths[:, None]) & (h > 0) & (h <= heights[:, None])
    first = fits.argmax(axis=1)[:, None]
    w, h = np.take_along_axis(w, first, 1)[:, 0], np.take_along_axis(h, first, 1)[:, 0]
    top = np.floor(draws[:, 2 * _TRIES] * (heights - h + 1))
    left = np.floor(draws[:, 2 * _TRIES + 1] * (widths - w + 1))

    none = ~fits.any(axis=1)
    if none.any():
        shape = widths[none] / heights[none]
        w[none] = np.where(shape > spec.ratio[1], np.rint(heights[none] * spec.ratio[1]), widths[none])
        h[none] = np.where(shape < spec.ratio[0], np.rint(widths[none] / spec.ratio[0]), heights[none])
        w, h = np.maximum(w, 1), np.maximum(h, 1)  # an image of one pixel and a narrow `ratio` round to 0
        top[none], left[none] = (heights[none] - h[none]) // 2, (widths[none] - w[none]) // 2
    return np.stack([top, left, h, w], axis=1).astype(np.int64)


def center_boxes(spec: Augmentation, heights: NDArray[np.integer], widths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Evaluation crops ``[n, 4]``: the centre square of `crop_pct` times the shorter side, as FFCV computes it."""
    side = np.maximum((spec.crop_pct * np.minimum(heights, widths)).astype(np.int64), 1)
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1).astype(np.int64)
