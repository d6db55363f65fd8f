"""What timm's augmentations cost in our loader and in timm's: images/s, against timm's loader with the same.

The photographs and the measurement are those of loader.py; all contestants normalise.

Run: python benchmarks/augmentation.py [--quick] [--rounds 3] [--json FILE]
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loader import BATCH, WORKERS, Epoch, compare, timm_folder
from rounds import options, photographs
from row import Row, report

# Our fields, and timm's words for the same. timm has no TrivialAugment.
AUGMENTATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "crop and flip": ({}, {}),
    "rand-m9-mstd0.5-inc1": ({"auto_augment": "rand-m9-mstd0.5-inc1"},) * 2,
    "augmix-m3-w3": ({"auto_augment": "augmix-m3-w3"},) * 2,
    "3a": ({"auto_augment": "3a"},) * 2,
    "color_jitter 0.4": ({"color_jitter": 0.4},) * 2,
    "grayscale 0.2": ({"grayscale": 0.2}, {"grayscale_prob": 0.2}),
    "vflip 0.5": ({"vflip": 0.5},) * 2,
    "random_erasing 0.25": ({"random_erasing": 0.25}, {"re_prob": 0.25, "re_mode": "pixel"}),
}  # fmt: skip


def ours_augmented(path: Path, **change: Any) -> Epoch:
    """Our loader with further augmentation, normalised as timm's is."""
    from skd_plugins import make_loader
    from skd_plugins.data import Augmentation

    loader = make_loader(path, augmentation=Augmentation(**change), batch_size=BATCH, workers=WORKERS)
    return lambda: sum(len(input) for input, _ in loader)


def augmentation_rows(beton: Path, folder: Path, rounds: int) -> Iterable[Row]:
    """Images/s with each augmentation, against timm's loader with the same."""
    plain, timm = "ours, crop and flip", "timm's loader, image folder"
    for name, (change, timms) in AUGMENTATIONS.items():
        contestants = {
            "ours": ours_augmented(beton, **change), timm: timm_folder(folder, 224, **timms),
            "ours, image folder": ours_augmented(folder, **change), plain: ours_augmented(beton),
        }  # fmt: skip
        yield from compare(f"loader, {name}, 224 px, images/s", contestants, {timm: 1.0}, rounds)


def main() -> None:
    given = options(__doc__, rounds=3)
    from skd_plugins.data.beton.write import write_beton
    from skd_plugins.data.sources import image_folder

    with tempfile.TemporaryDirectory() as root:
        folder = photographs(Path(root) / "train", 20 if given.quick else 400)
        beton = write_beton(image_folder(folder), Path(root) / "jpeg.beton")
        report(list(augmentation_rows(beton, folder, 1 if given.quick else given.rounds)), given.json)


if __name__ == "__main__":
    main()
