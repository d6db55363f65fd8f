"""The papers' transforms: what a preset gives is what torchvision's transforms, as the authors wrote them, give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from recipes.presets import PRESETS
from skd_plugins import Recipe, make_loader, replace
from skd_plugins.data import Augmentation
from skd_plugins.data.beton.file import BetonFile

EVALUATION = {
    "cskd/cub200": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)]),
    "sdd/dogs": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)]),
}


def spec_of(preset: str) -> Augmentation:
    """As the engine makes it of a recipe."""
    return Augmentation.of(replace(Recipe(name="a.b"), **PRESETS[preset]))


def evaluated(folder: Path, preset: str) -> list[np.ndarray]:
    loader = make_loader(folder, train=False, augmentation=spec_of(preset), workers=0)
    return [image.permute(1, 2, 0).numpy() for batch, _ in loader.host_batches() for image in batch]


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.png"))]


@pytest.mark.parametrize("preset", EVALUATION)
def test_evaluation_is_resize_and_centre_crop(preset: str, png_folder: Path) -> None:
    got = evaluated(png_folder, preset)
    assert len(got) == 16
    for image, ours in zip(pictures(png_folder), got, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(EVALUATION[preset](image)))


def test_tinyimagenet_is_evaluated_at_32_pixels(png_folder: Path, tmp_path: Path) -> None:
    """Resize(32) of square images."""
    (tmp_path / "one").mkdir()
    square = pictures(png_folder)[0].resize((64, 64))
    square.save(tmp_path / "one" / "x.png")
    (got,) = evaluated(tmp_path, "cskd/tinyimagenet")
    np.testing.assert_array_equal(got, np.asarray(transforms.Resize(32)(square)))


def test_both_papers_transforms_are_the_same() -> None:
    for name in ("cifar100", "cub200", "dogs", "imagenet-1k"):
        assert PRESETS[f"cskd/{name}"] == PRESETS[f"sdd/{name}"]


def test_cifar_is_padded_cropped_and_flipped(digits_beton: Path) -> None:
    """Each training image is one of RandomCrop(32, padding=4)'s 81 crops, flipped or not; each comes about as often."""
    data = BetonFile(digits_beton / "train.beton")
    loader = make_loader(digits_beton / "train.beton", batch_size=200, augmentation=spec_of("cskd/cifar100"), workers=1)
    seen: dict[tuple[int, int, bool], int] = {}
    for epoch in range(8):
        assert loader.order is not None
        (indices,) = (batch.indices for batch in loader.order.batches(epoch, 0))
        loader.set_epoch(epoch)
        ((input, _),) = loader.host_batches()
        for index, image in zip(indices, input.permute(0, 2, 3, 1).numpy(), strict=True):
            padded = np.pad(data.stored(int(index)).reshape(32, 32, 3), ((4, 4), (4, 4), (0, 0)))
            ways = [
                (top, left, flip)
                for top in range(9) for left in range(9) for flip in (False, True)
                if np.array_equal(padded[top : top + 32, left : left + 32][:, :: -1 if flip else 1], image)
            ]  # fmt: skip
            assert ways, "none of the 162"
            if len(ways) == 1:
                seen[ways[0]] = seen.get(ways[0], 0) + 1
    assert sum(seen.values()) > 1500, "hardly any picture is the same after another crop"
    assert len({way[:2] for way in seen}) == 81
    flips = sum(count for way, count in seen.items() if way[2]) / sum(seen.values())
    assert flips == pytest.approx(0.5, abs=0.05)


def test_evaluation_of_cifar_leaves_the_pixels(digits_beton: Path) -> None:
    data = BetonFile(digits_beton / "val.beton")
    for index, image in enumerate(evaluated(digits_beton / "val.beton", "sdd/cifar100")[:50]):
        np.testing.assert_array_equal(image, data.stored(index).reshape(32, 32, 3))


def test_random_sized_crops_are_torchvisions() -> None:
    """Its defaults, which the authors leave as they are."""
    crop: Any = transforms.RandomResizedCrop(224)
    for preset, fields in PRESETS.items():
        if fields["augment"] == "rrc":
            spec = spec_of(preset)
            assert (spec.scale, spec.ratio) == (crop.scale, pytest.approx(crop.ratio))
            assert spec.image_size == (32 if "tiny" in preset else crop.size[0])
            assert spec.interpolation == crop.interpolation.value == "bilinear"
