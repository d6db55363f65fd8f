"""Crops and flips against torchvision and against the same thing written one image at a time."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import RandomResizedCrop

from skd_plugins.common.errors import SkdError
from skd_plugins.common.rng import keys, uniform
from skd_plugins.data.augment import Augmentation, center_boxes, training_boxes

quick = settings(max_examples=200, deadline=None, derandomize=True)


def boxes_of(
    spec: Augmentation, height: int, width: int, count: int, **options: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For `count` images of one size, at positions 0, 1, ..."""
    values = {"seed": 0, "epoch": 0, "segment": 0} | options
    segments = np.full(count, values.pop("segment"))
    boxes, flips, _ = training_boxes(
        spec, np.full(count, height), np.full(count, width), **values, positions=np.arange(count), segments=segments
    )
    return boxes, flips


def slow_box(spec: Augmentation, height: int, width: int, draws: list[float]) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params, told its random numbers."""
    for area_draw, ratio_draw in zip(draws[:10], draws[10:20], strict=True):
        area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * area_draw)
        low, high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
        aspect = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(draws[20] * (height - h + 1)), math.floor(draws[21] * (width - w + 1)), h, w
    h, w = height, width
    if width / height < spec.ratio[0]:
        h = round(width / spec.ratio[0])
    elif width / height > spec.ratio[1]:
        w = round(height * spec.ratio[1])
    h, w = max(h, 1), max(w, 1)
    return (height - h) // 2, (width - w) // 2, h, w


sides = st.integers(1, 700)
specs = st.builds(
    Augmentation,
    scale=st.sampled_from([(0.08, 1.0), (0.5, 1.0), (1.0, 1.0), (0.01, 0.02), (0.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.1, 10.0), (0.25, 0.3), (3.0, 4.0)]),
)


@quick
@given(specs, st.lists(st.tuples(sides, sides), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 99))
def test_boxes_are_those_of_the_slow_version(
    spec: Augmentation, sizes: list[tuple[int, int]], seed: int, epoch: int
) -> None:
    heights, widths = np.array(sizes).T
    positions, segments = np.arange(len(sizes)) + 5, np.arange(len(sizes)) % 2
    place: dict[str, Any] = {"seed": seed, "epoch": epoch, "positions": positions, "segments": segments}
    boxes, flips, _ = training_boxes(spec, heights, widths, **place)
    for i, (height, width) in enumerate(sizes):
        draws = uniform(keys(seed, epoch, int(positions[i]), int(segments[i])), 23)[0].tolist()
        assert tuple(boxes[i]) == slow_box(spec, height, width, draws)
        assert flips[i] == (draws[22] < 0.5)
        top, left, h, w = boxes[i]
        assert 0 <= top < top + h <= height
        assert 0 <= left < left + w <= width


def torchvision_boxes(spec: Augmentation, height: int, width: int, count: int) -> NDArray[np.int64]:
    image = torch.empty(3, height, width)
    return np.array([RandomResizedCrop.get_params(image, list(spec.scale), list(spec.ratio)) for _ in range(count)])


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (32, 32)])
def test_distributed_like_torchvisions(size: tuple[int, int]) -> None:
    height, width = size
    spec = Augmentation()
    ours, _ = boxes_of(spec, height, width, 6000)
    torch.manual_seed(0)
    theirs = torchvision_boxes(spec, height, width, 6000)

    def features(boxes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        top, left, h, w = boxes.T
        return {"area": h * w, "ratio": w / h, "top": top, "left": left, "h": h, "w": w, "end": left + w}

    for name, values in features(ours).items():
        assert ks_2samp(values, features(theirs)[name]).pvalue > 1e-3, name


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (1, 50), (50, 1), (7, 1000)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.5, 0.6), (1.8, 2.0)])
def test_falls_back_like_torchvision(size: tuple[int, int], ratio: tuple[float, float]) -> None:
    """With the whole area asked for, no try fits, and both take a centre crop within the bounds of the ratio."""
    spec = Augmentation(scale=(1.0, 1.0), ratio=ratio)
    theirs = torchvision_boxes(spec, *size, 1)[0]
    theirs[2:] = np.maximum(theirs[2:], 1)
    theirs[:2] = (size - theirs[2:]) // 2
    ours, _ = boxes_of(spec, *size, 20)
    assert (ours == theirs).all()


# ------------------------------------------------------------------------------------------------------------- shift


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_shift_is_uniform(padding: int) -> None:
    count = 20_000
    boxes, _ = boxes_of(Augmentation(mode="shift", image_size=32, padding=padding), 32, 32, count)
    assert (boxes[:, 2:] == 32).all()
    steps = 2 * padding + 1
    table = np.zeros((steps, steps), int)
    np.add.at(table, tuple(boxes[:, :2].T + padding), 1)
    assert table.sum() == count  # nothing outside -padding .. padding
    if padding:
        assert chisquare(table.ravel()).pvalue > 1e-3  # top and left, jointly


def test_shift_is_in_pixels_of_the_output() -> None:
    boxes, _ = boxes_of(Augmentation(mode="shift", image_size=32, padding=4), 64, 96, 2000)
    assert sorted(set(boxes[:, 0])) == [-8, -6, -4, -2, 0, 2, 4, 6, 8]
    assert sorted(set(boxes[:, 1])) == [-12, -9, -6, -3, 0, 3, 6, 9, 12]
    assert (boxes[:, 2:] == [64, 96]).all()


# -------------------------------------------------------------------------------------------------------------- flips


@pytest.mark.parametrize("mode", ["rrc", "shift"])
@pytest.mark.parametrize(("hflip", "tolerance"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.02), (0.1, 0.015)])
def test_flip_probability(mode: Any, hflip: float, tolerance: float) -> None:
    boxes, flips = boxes_of(Augmentation(mode=mode, hflip=hflip, image_size=32), 40, 40, 10_000)
    assert abs(flips.mean() - hflip) <= tolerance
    if tolerance:  # and have nothing to do with the crop
        assert abs(boxes[flips, 1].mean() - boxes[~flips, 1].mean()) < 0.5


def test_depends_on_every_key_and_on_nothing_else() -> None:
    spec = Augmentation()
    plain, flips = boxes_of(spec, 300, 400, 50)
    for change in ({"seed": 1}, {"epoch": 1}, {"segment": 1}):
        other, other_flips = boxes_of(spec, 300, 400, 50, **change)
        assert (other != plain).any(axis=1).all()
        assert 10 < (flips != other_flips).sum() < 40
    again, flips_again = boxes_of(spec, 300, 400, 20)  # a shorter batch
    assert (again == plain[:20]).all()
    assert (flips_again == flips[:20]).all()


# ------------------------------------------------------------------------------------------------------ centre crops


@quick
@given(sides, sides, st.sampled_from([0.01, 0.5, 0.875, 0.9, 0.95, 1.0]))
def test_center_boxes(height: int, width: int, crop_pct: float) -> None:
    top, left, h, w = center_boxes(Augmentation(crop_pct=crop_pct), np.array([height]), np.array([width]))[0]
    assert h == w == max(int(crop_pct * min(height, width)), 1)
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width
    assert 0 <= (height - h) - 2 * top <= 1
    assert 0 <= (width - w) - 2 * left <= 1


WRONG: list[dict[str, Any]] = [
    {"image_size": 0}, {"mode": "mirror"}, {"scale": (0.5, 0.1)}, {"scale": (-0.1, 1.0)}, {"ratio": (0.0, 1.0)},
    {"ratio": (2.0, 1.0)}, {"ratio": (1.0, math.inf)}, {"padding": -1}, {"hflip": 1.5}, {"crop_pct": 0.0},
    {"crop_pct": 1.1}, {"crop_pct": math.nan}, {"std": (0.1, 0.0, 0.1)},
    {"sizes": ((0, 0),)}, {"sizes": ((2, 16), (0, 24))}, {"vflip": 2.0}, {"color_jitter": -1.0}, {"erasing_mode": "x"},
    {"erasing_count": 0},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_values_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(SkdError, match=f"{next(iter(wrong))} should be"):
        Augmentation(**wrong)
