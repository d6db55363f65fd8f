"""The corruptions of ImageNet-C and CIFAR-C for images of one's own: ``perturb=Corruption(name="fog", ...)``.

For CIFAR-100 use the published files (``skd data cifar100c``); this makes the same kinds of corruption for other data.
``frost`` lays photographs over the image; they come with ``pip install 'skd_plugins[corruptions]'``.

Source: Hendrycks and Dietterich 2019; the parameters are those of the benchmark's ``make_cifar_c.py`` and
    ``make_imagenet_c.py`` (hendrycks/robustness), written anew with NumPy, SciPy and Pillow.
Deviation: random numbers differ, so images are not those of the published files. Motion blur is computed as
    ImageMagick does it, but without its rounding to 8 bits in between. Corruptions see what the network sees (after
    resize and crop), not the original file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..data.catalog.cifar100c import SEVERITIES
from ..errors import SkdError, unknown
from .frost import photographs, window
from .pixels import Normalised, generator_of, to_uint8

Pixels = NDArray[np.float64]  # [H, W, 3] in [0, 1]
Draw = np.random.Generator
_SMALL = 64  # pixels: shorter sides up to this take CIFAR-C's parameters, longer ones ImageNet-C's


def _gaussian_noise(x: Pixels, scale: float, draw: Draw) -> Pixels:
    return x + draw.normal(scale=scale, size=x.shape)


def _shot_noise(x: Pixels, photons: float, draw: Draw) -> Pixels:
    return draw.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, share: float, draw: Draw) -> Pixels:
    """Salt and pepper, each value of a pixel by itself."""
    hit, salt = draw.random(x.shape) < share, draw.random(x.shape) < 0.5
    return np.where(hit, salt.astype(float), x)


def _defocus_blur(x: Pixels, disk: tuple[float, float], draw: Draw) -> Pixels:
    from scipy.ndimage import convolve, gaussian_filter

    radius, soften = disk
    reach, soften_reach = (8, 1) if radius <= 8 else (int(radius), 2)
    line = np.arange(-reach, reach + 1)
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).astype(float)
    kernel = gaussian_filter(kernel / kernel.sum(), soften, radius=soften_reach, mode="mirror")
    return convolve(x, kernel[:, :, None], mode="mirror")  # type: ignore[no-any-return]


def _glass_blur(x: Pixels, glass: tuple[float, int, int], draw: Draw) -> Pixels:
    """Each pixel becomes a near one, between two blurs. The benchmark means to swap them, but copies; so here."""
    sigma, reach, times = glass
    x = np.floor(_blur(x, sigma) * 255)
    height, width = x.shape[:2]
    for _ in range(times):
        moves = draw.integers(-reach, reach, size=(height, width, 2))
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = moves[row - 1, column - 1]
                x[row, column] = x[row + down, column + right]
    return _blur(x / 255, sigma)


def _motion_blur(x: Pixels, motion: tuple[int, float], draw: Draw) -> Pixels:
    return _moved(x, *motion, angle=draw.uniform(-45, 45))


def _zoom_blur(x: Pixels, steps: tuple[float, float], draw: Draw) -> Pixels:
    """The mean of the image and its enlargements: from 1 to below `end`, `step` apart."""
    end, step = steps
    factors = np.arange(1, end, step)
    result: Pixels = (x + sum(_enlarged(x, factor) for factor in factors)) / (len(factors) + 1)
    return result


def _snow(x: Pixels, snow: tuple[float, float, float, float, int, float, float], draw: Draw) -> Pixels:
    mean, spread, size, threshold, radius, sigma, keep = snow
    flakes = _enlarged(draw.normal(mean, spread, x.shape[:2]), size)
    flakes = np.where(flakes < threshold, 0, flakes.clip(0, 1))
    layer = _moved(flakes, radius, sigma, angle=draw.uniform(-135, -45))[:, :, None]
    grey = (x @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    turned = layer[::-1, ::-1]
    result: Pixels = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5) + layer + turned
    return result


def _frost(x: Pixels, frost: tuple[float, float], draw: Draw) -> Pixels:
    keep, amount = frost
    height, width = x.shape[:2]
    return keep * x + amount * window(height, width, min(height, width) <= _SMALL, draw)


def _fog(x: Pixels, fog: tuple[float, float], draw: Draw) -> Pixels:
    amount, decay = fog
    size = 1 << (max(*x.shape[:2], 2) - 1).bit_length()
    brightest = x.max()
    layer = _plasma(size, decay, draw)[: x.shape[0], : x.shape[1], None]
    result: Pixels = (x + amount * layer) * brightest / (brightest + amount)
    return result


def _brightness(x: Pixels, amount: float, draw: Draw) -> Pixels:
    """Adds to V of HSV: hue and saturation stay, so all three values of a pixel grow by one factor."""
    value = x.max(axis=2, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    result: Pixels = np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
    return result


def _contrast(x: Pixels, factor: float, draw: Draw) -> Pixels:
    mean = x.mean(axis=(0, 1))
    result: Pixels = (x - mean) * factor + mean
    return result


def _elastic_transform(x: Pixels, elastic: tuple[float, float, float], draw: Draw) -> Pixels:
    """A random affine map, then a smooth random displacement. Parameters are in shorter sides of the image."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    height, width = x.shape[:2]
    amount, sigma, corner = (value * min(height, width) for value in elastic)
    centre, reach = np.array([height // 2, width // 2], float), min(height, width) // 3
    points = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + draw.uniform(-corner, corner, points.shape)
    # Where the map takes a point from: the affine map that sends `moved` to `points`.
    matrix = np.linalg.lstsq(np.column_stack([moved, np.ones(3)]), points, rcond=None)[0]
    places = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    source = matrix.T @ np.vstack([places, np.ones(height * width)])
    shift = [
        gaussian_filter(draw.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3).ravel() * amount
        for _ in range(2)
    ]
    channels = []
    for channel in np.moveaxis(x, 2, 0):
        affine = map_coordinates(channel, source, order=1, mode="mirror").reshape(height, width)
        channels.append(map_coordinates(affine, places + shift, order=1, mode="reflect").reshape(height, width))
    return np.stack(channels, axis=2)


def _pixelate(x: Pixels, factor: float, draw: Draw) -> Pixels:
    image = _to_image(x)
    small = image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255


def _jpeg_compression(x: Pixels, quality: int, draw: Draw) -> Pixels:
    file = io.BytesIO()
    _to_image(x).save(file, "jpeg", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")) / 255


@dataclass(frozen=True)
class _Kind:
    """A corruption, and its parameter at severities 1 to 5 for small (CIFAR-C) and large (ImageNet-C) images."""

    apply: Callable[[Pixels, Any, Draw], Pixels]
    small: Sequence[Any]
    large: Sequence[Any]


_KINDS = {
    "gaussian_noise": _Kind(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": _Kind(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": _Kind(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": _Kind(
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": _Kind(
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": _Kind(
        _motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    ),
    "zoom_blur": _Kind(
        _zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": _Kind(
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": _Kind(
        _frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": _Kind(
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": _Kind(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": _Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": _Kind(
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # The benchmark writes them as shares of 244, for images of 224.
        tuple(
            (244 / 224 * amount, 244 / 224 * sigma, 244 / 224 * corner)
            for amount, sigma, corner in (
                (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
            )
        ),
    ),
    "pixelate": _Kind(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": _Kind(_jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}  # fmt: skip


def corrupt(image: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """A corrupted copy of an image.

    Args:
        image: ``[H, W, 3]`` of any size. Shorter sides up to 64 pixels take CIFAR-C's parameters, which are made for
            32, longer ones ImageNet-C's, made for 224. Radii are in pixels and do not grow with the image.
        name: of the benchmark's fifteen.
        severity: 1 to 5.
        seed: the same seed and image give the same corruption.

    Raises:
        SkdError: an unknown name or severity, something that is not an image, or no photographs for frost.
    """
    if name not in _KINDS:
        raise unknown("corruption", name, _KINDS)
    if severity not in SEVERITIES:
        raise SkdError(f"severity of {name} is 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 1:
        raise SkdError(f"corruptions take uint8 images [H, W, 3], got {image.dtype} {list(image.shape)}")
    kind = _KINDS[name]
    parameter = (kind.small if min(image.shape[:2]) <= _SMALL else kind.large)[severity - 1]
    draw = generator_of(image, seed, f"{name}/{severity}")
    result = kind.apply(image / 255, parameter, draw)
    # Cut off, as the benchmark does, but not below a whole number that a rounding error made 1e-13 smaller.
    return np.floor(np.clip(result, 0, 1) * 255 + 1e-6).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Corruption(Normalised):
    """`corrupt` for `predict`: every image of the loader, on the CPU, the same in any batch.

    Attributes:
        name: of the benchmark's fifteen.
        severity: 1 to 5.
        seed: of the random numbers.
    """

    name: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        corrupt(np.zeros((1, 1, 3), np.uint8), "contrast" if self.name in _KINDS else self.name, self.severity)
        if self.name == "frost":
            photographs()  # say now that they are missing

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The corrupted input. Args: input ``[B, 3, H, W]`` normalised; model and target are not used."""
        images = to_uint8(self.to_pixels(input))
        changed = np.stack([corrupt(image, self.name, self.severity, seed=self.seed) for image in images])
        return self.from_pixels(torch.from_numpy(changed).permute(0, 3, 1, 2).to(input) / 255)


def _to_image(x: Pixels) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


def _blur(x: Pixels, sigma: float) -> Pixels:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, 0), mode="nearest")  # type: ignore[no-any-return]


def _moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Motion blur of ``[H, W]`` or ``[H, W, 3]``: half a Gaussian along a line, as ImageMagick's MotionBlurImage."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    right, down = (np.ceil(taps * part(math.radians(angle)) - 0.5).astype(int) for part in (math.cos, math.sin))
    pad = len(taps)
    padded = np.pad(x, [(pad, pad), (pad, pad)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    height, width = x.shape[:2]
    total = np.zeros_like(x)
    for weight, i, j in zip(weights, pad + down, pad + right, strict=True):
        total += weight * padded[i : i + height, j : j + width]
    return total


def _enlarged(x: Pixels, factor: float) -> Pixels:
    """The centre of ``[H, W]`` or ``[H, W, 3]``, enlarged to the same size."""
    from scipy.ndimage import zoom

    sizes = x.shape[:2]
    kept = [math.ceil(size / factor) for size in sizes]
    starts = [(size - keep) // 2 for size, keep in zip(sizes, kept, strict=True)]
    centre = x[starts[0] : starts[0] + kept[0], starts[1] : starts[1] + kept[1]]
    large = zoom(centre, (factor, factor) + (1,) * (x.ndim - 2), order=1)
    trims = [(have - size) // 2 for have, size in zip(large.shape, sizes, strict=False)]
    result: Pixels = large[trims[0] : trims[0] + sizes[0], trims[1] : trims[1] + sizes[1]]
    return result


def _plasma(size: int, decay: float, draw: Draw) -> Pixels:
    """Clouds ``[size, size]`` in [0, 1], `size` a power of two: the diamond-square algorithm on a torus.

    The benchmark's code multiplies by its amplitude twice, so that it falls by the square of the decay at each level.
    """
    clouds = np.zeros((size, size))
    step, amplitude = size, 1.0

    def wobble(corners: Pixels) -> Pixels:
        return corners / 4 + amplitude * draw.uniform(-1, 1, corners.shape)

    while step >= 2:
        half = step // 2
        corner = clouds[::step, ::step]
        pairs = corner + np.roll(corner, -1, axis=0)
        centre = wobble(pairs + np.roll(pairs, -1, axis=1))
        clouds[half::step, half::step] = centre
        clouds[::step, half::step] = wobble(corner + np.roll(corner, -1, axis=1) + centre + np.roll(centre, 1, axis=0))
        clouds[half::step, ::step] = wobble(corner + np.roll(corner, -1, axis=0) + centre + np.roll(centre, 1, axis=1))
        step, amplitude = half, amplitude / decay**2
    clouds -= clouds.min()
    result: Pixels = clouds / clouds.max()
    return result
