"""The corruptions of ImageNet-C and CIFAR-C for any images: ``skd evaluate RUN --corruptions``, or in `predict`.

For CIFAR-100 use the published files (``skd data cifar100c``). The photographs for ``frost`` come with
``pip install 'skd_plugins[corruptions]'``.

Source: Hendrycks and Dietterich 2019, with the parameters of the benchmark's ``make_cifar_c.py`` and
    ``make_imagenet_c.py`` (hendrycks/robustness), written with NumPy, SciPy and Pillow.
Deviation: random numbers differ, so the images differ from the published files. Motion blur follows ImageMagick, but
    without its intermediate rounding to 8 bits. Corruptions are applied to what the network sees (after resize and
    crop), not to the original file.
"""

import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter, map_coordinates, zoom
from torch import Tensor, nn

from ..common.errors import SkdError, unknown
from ..data.datasets.cifar100c import SEVERITIES
from .pixels import Normalised, generator_of, to_uint8

Pixels: TypeAlias = NDArray[np.float64]  # [H, W, 3] in [0, 1]
Draw: TypeAlias = np.random.Generator
# function(image, its parameter at a severity, random numbers) -> an image that `corrupt` clips to [0, 1]
Function: TypeAlias = Callable[[Pixels, Any, Draw], Pixels]
_FUNCTIONS: dict[str, tuple[Function, Sequence[Any], Sequence[Any]]] = {}
_SMALL = 64  # pixels: shorter sides up to this take CIFAR-C's parameters, longer ones ImageNet-C's
# The benchmark lists six photographs but never draws the last one.
_PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def corrupt(image: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """A corrupted copy of an image ``[H, W, 3]`` of any size. The same seed and image give the same corruption.

    Images with a shorter side of up to 64 pixels take CIFAR-C's parameters, made for 32 pixels, larger ones
    ImageNet-C's, made for 224. Radii are in pixels and do not grow with the image.
    """
    if name not in _FUNCTIONS:
        raise unknown("corruption", name, _FUNCTIONS)
    if severity not in SEVERITIES:
        raise SkdError(f"the severity of {name} is 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise SkdError(f"corruptions take uint8 images [H, W, 3], got {image.dtype} {list(image.shape)}")
    function, small, large = _FUNCTIONS[name]
    parameter = (small if min(image.shape[:2]) <= _SMALL else large)[severity - 1]
    result = function(image / 255, parameter, generator_of(image, seed, f"{name}/{severity}"))
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


def _corruption(small: Sequence[Any], large: Sequence[Any]) -> Callable[[Function], Function]:
    """Registers a function with its parameters at severities 1 to 5 for small and for large images."""

    def register(function: Function) -> Function:
        _FUNCTIONS[function.__name__] = function, small, large
        return function

    return register


@_corruption(small=(0.04, 0.06, 0.08, 0.09, 0.10), large=(0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(x: Pixels, scale: float, draw: Draw) -> Pixels:
    """Normal noise; the parameter is its standard deviation."""
    return x + draw.normal(scale=scale, size=x.shape)


@_corruption(small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
def shot_noise(x: Pixels, photons: float, draw: Draw) -> Pixels:
    """Poisson noise; the parameter is the number of photons for a value of 1."""
    return draw.poisson(x * photons) / photons


@_corruption(small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(x: Pixels, share: float, draw: Draw) -> Pixels:
    """Salt and pepper on a share of the values; each channel of a pixel is drawn separately."""
    hit, salt = draw.random(x.shape) < share, draw.random(x.shape) < 0.5
    return np.where(hit, salt.astype(float), x)


@_corruption(
    small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(x: Pixels, disk: tuple[float, float], draw: Draw) -> Pixels:
    """A disk with a softened edge; the first parameter is its radius in pixels."""
    radius, soften = disk
    reach, soften_reach = (8, 1) if radius <= 8 else (int(radius), 2)
    line = np.arange(-reach, reach + 1)
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).astype(float)
    kernel = gaussian_filter(kernel / kernel.sum(), soften, radius=soften_reach, mode="mirror")
    return np.asarray(convolve(x, kernel[:, :, None], mode="mirror"))


@_corruption(
    small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(x: Pixels, glass: tuple[float, int, int], draw: Draw) -> Pixels:
    """Between two blurs, copies a nearby pixel to each pixel (copied, not swapped, as in the benchmark's code)."""
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


@_corruption(small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)))
def motion_blur(x: Pixels, motion: tuple[int, float], draw: Draw) -> Pixels:
    """A blur along a random line; the parameters are its radius in pixels and its decay."""
    return _moved(x, *motion, angle=draw.uniform(-45, 45))


@_corruption(
    small=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    large=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)
def zoom_blur(x: Pixels, steps: tuple[float, float], draw: Draw) -> Pixels:
    """The mean of the image and its enlargements by factors from 1 to below `end`, `step` apart."""
    end, step = steps
    factors = np.arange(1, end, step)
    return np.asarray((x + sum(_enlarged(x, factor) for factor in factors)) / (len(factors) + 1))


@_corruption(
    small=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    large=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)  # fmt: skip
def snow(x: Pixels, snow: tuple[float, float, float, float, int, float, float], draw: Draw) -> Pixels:
    """Random flakes, blurred along a line, over a paler image."""
    mean, spread, size, threshold, radius, sigma, keep = snow
    flakes = _enlarged(draw.normal(mean, spread, x.shape[:2]), size)
    flakes = np.where(flakes < threshold, 0, flakes.clip(0, 1))
    layer = _moved(flakes, radius, sigma, angle=draw.uniform(-135, -45))[:, :, None]
    grey = (x @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    turned = layer[::-1, ::-1]
    return np.asarray(keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5) + layer + turned)


@_corruption(
    small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
def frost(x: Pixels, frost: tuple[float, float], draw: Draw) -> Pixels:
    """A photograph of frost over the image."""
    keep, amount = frost
    height, width = x.shape[:2]
    photograph = photographs()[int(draw.integers(len(_PHOTOGRAPHS)))]
    if min(height, width) <= _SMALL:
        photograph = photograph[2::5, 2::5]  # what bilinear interpolation at a scale of 0.2 gives
    repeat = max(-(-height // photograph.shape[0]), -(-width // photograph.shape[1]))
    if repeat > 1:  # the image is larger than the photograph, which never happens in the benchmark
        photograph = photograph.repeat(repeat, axis=0).repeat(repeat, axis=1)
    top = int(draw.integers(photograph.shape[0] - height + 1))
    left = int(draw.integers(photograph.shape[1] - width + 1))
    return keep * x + amount * photograph[top : top + height, left : left + width]


@cache
def photographs() -> tuple[Pixels, ...]:
    """The benchmark's photographs of frost, from the package imagecorruptions, which is not imported."""
    spec = importlib.util.find_spec("imagecorruptions")
    folder = Path(spec.origin).parent / "frost" if spec and spec.origin else Path()
    missing = [name for name in _PHOTOGRAPHS if not (folder / name).is_file()]
    if missing:
        raise SkdError(
            f"the corruption frost needs the benchmark's photographs ({missing[0]} was not found), which come with the "
            "package imagecorruptions: pip install 'skd_plugins[corruptions]'; for CIFAR-100 with frost see "
            "skd data cifar100c"
        )
    return tuple(np.asarray(Image.open(folder / name).convert("RGB")) / 255 for name in _PHOTOGRAPHS)


@_corruption(
    small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(x: Pixels, fog: tuple[float, float], draw: Draw) -> Pixels:
    """Random clouds over the image."""
    amount, decay = fog
    size = 1 << (max(*x.shape[:2], 2) - 1).bit_length()
    brightest = x.max()
    layer = _plasma(size, decay, draw)[: x.shape[0], : x.shape[1], None]
    return np.asarray((x + amount * layer) * brightest / (brightest + amount))


@_corruption(small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(x: Pixels, amount: float, draw: Draw) -> Pixels:
    """Adds to V of HSV. Hue and saturation stay, so all values of a pixel grow by one factor."""
    value = x.max(axis=2, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    return np.asarray(np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter))


@_corruption(small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(x: Pixels, factor: float, draw: Draw) -> Pixels:
    """Values moved towards the mean of their channel."""
    mean = x.mean(axis=(0, 1))
    return np.asarray((x - mean) * factor + mean)


@_corruption(
    small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    large=[  # shares of 244 in the benchmark, for images of 224
        tuple(244 / 224 * share for share in shares)
        for shares in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ],
)
def elastic_transform(x: Pixels, elastic: tuple[float, float, float], draw: Draw) -> Pixels:
    """A random affine map, then a smooth random displacement. Parameters are shares of the image's shorter side."""
    height, width = x.shape[:2]
    amount, sigma, corner = (value * min(height, width) for value in elastic)
    centre, reach = np.array([height // 2, width // 2], float), min(height, width) // 3
    points = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + draw.uniform(-corner, corner, points.shape)
    # Values are taken from the positions given by the inverse of the affine map, which sends `moved` to `points`.
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


@_corruption(small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(x: Pixels, factor: float, draw: Draw) -> Pixels:
    """Scaled down and up again."""
    image = _to_image(x)
    small = image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255


@_corruption(small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))
def jpeg_compression(x: Pixels, quality: int, draw: Draw) -> Pixels:
    """Saved as JPEG and loaded again; the parameter is the quality."""
    file = io.BytesIO()
    _to_image(x).save(file, "jpeg", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")) / 255


def _to_image(x: Pixels) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


def _blur(x: Pixels, sigma: float) -> Pixels:
    return np.asarray(gaussian_filter(x, (sigma, sigma, 0), mode="nearest"))


def _moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """ImageMagick's MotionBlurImage of ``[H, W]`` or ``[H, W, 3]``: half a Gaussian along a line."""
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
    sizes = x.shape[:2]
    kept = [math.ceil(size / factor) for size in sizes]
    starts = [(size - keep) // 2 for size, keep in zip(sizes, kept, strict=True)]
    centre = x[starts[0] : starts[0] + kept[0], starts[1] : starts[1] + kept[1]]
    large = zoom(centre, (factor, factor) + (1,) * (x.ndim - 2), order=1)
    trims = [(have - size) // 2 for have, size in zip(large.shape, sizes, strict=False)]
    return np.asarray(large[trims[0] : trims[0] + sizes[0], trims[1] : trims[1] + sizes[1]])


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
    return np.asarray(clouds / clouds.max())
