"""A small detection set of real images that needs no download: handwritten digits on photographs."""

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from skd_plugins.common.files import cache_folder, write_json
from skd_plugins.common.locks import make_folder_once
from skd_plugins.data.datasets.digits import digits

CLASSES = [str(digit) for digit in range(10)]
NAMES = {"skd_digits_train": True, "skd_digits_val": False}
IMAGES = {True: 400, False: 100}
SIDE = 160
_VERSION = 1  # of the generated set; each version has its own folder


def register_digits() -> None:
    """Registers ``skd_digits_train`` and ``skd_digits_val``; they are made when they are first used."""
    for name, train in NAMES.items():
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, lambda name=name, train=train: _load(name, train))
            MetadataCatalog.get(name).set(thing_classes=CLASSES, evaluator_type="coco")


def digits_folder() -> Path:
    """Where the set is kept."""
    return cache_folder() / f"digits-detection-{_VERSION}"


def _load(name: str, train: bool) -> list[dict[str, Any]]:
    folder = make_digits(digits_folder())
    half = "train" if train else "val"
    records: list[dict[str, Any]] = load_coco_json(str(folder / f"{half}.json"), str(folder / half), name)
    return records


def make_digits(folder: Path) -> Path:
    """Writes both halves in COCO's format unless they are there; returns the folder.

    An image is a 160 x 160 crop of one of scikit-learn's two photographs with 2 to 6 of its digits, 20 to 48 pixels
    high, light on dark places and dark on light ones, never overlapping. A box is exactly the visible ink. The training
    half uses the 100 digits a class that the digits recipes may train on and the left parts of the photographs; the
    validation half uses the other 797 digits and the right parts.
    """
    make_folder_once(folder, _write_halves)
    return folder


def _write_halves(folder: Path) -> None:
    for train in (True, False):
        _write_half(folder, train)


def _write_half(folder: Path, train: bool) -> None:
    half = "train" if train else "val"
    (folder / half).mkdir(parents=True)
    source = digits(train)
    photographs = [np.asarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng([_VERSION, train])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    order = draw.permutation(len(source.targets)).tolist()
    for number in range(IMAGES[train]):
        picture = _background(photographs[number % 2], train, draw)
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(int(draw.integers(2, 7))):
            if not order:  # use every digit once before repeating any
                order = draw.permutation(len(source.targets)).tolist()
            index = order.pop()
            box = _paste(picture, source.load(index)[..., 0], boxes, draw)
            if box is None:
                continue
            boxes.append(box)
            left, top, right, bottom = box
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": int(source.targets[index]) + 1,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top), "iscrowd": 0,
            })  # fmt: skip
        name = f"{number:04d}.png"
        Image.fromarray(picture).save(folder / half / name)
        images.append({"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    write_json(folder / f"{half}.json", content)


def _background(photograph: NDArray[np.uint8], train: bool, draw: np.random.Generator) -> NDArray[np.uint8]:
    height, width = photograph.shape[:2]
    middle = width * 2 // 3
    low, high = (0, middle) if train else (middle, width)
    top = int(draw.integers(height - SIDE + 1))
    left = int(draw.integers(low, high - SIDE + 1))
    return photograph[top : top + SIDE, left : left + SIDE].copy()


def _paste(
    picture: NDArray[np.uint8],
    digit: NDArray[np.uint8],
    taken: list[tuple[int, int, int, int]],
    draw: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Draws a digit ``[32, 32]`` in a free place of the picture; returns the box of its ink, None if there is no room.

    `taken` has the boxes (left, top, right, bottom) of the digits drawn so far.
    """
    side = int(draw.integers(20, 49))
    ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    rows, columns = np.nonzero((ink > 0.25).any(1))[0], np.nonzero((ink > 0.25).any(0))[0]
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = ink.shape
    for _ in range(20):
        left, top = int(draw.integers(SIDE - width + 1)), int(draw.integers(SIDE - height + 1))
        box = (left, top, left + width, top + height)
        if not any(left < r + 2 and x < box[2] + 2 and top < b + 2 and y < box[3] + 2 for x, y, r, b in taken):
            place = picture[top : box[3], left : box[2]]
            alpha = np.clip(ink * 1.5, 0, 1)[..., None]
            colour = draw.integers(190, 256, 3) if place.mean() < 128 else draw.integers(0, 60, 3)
            place[:] = np.rint(place * (1 - alpha) + colour * alpha).astype(np.uint8)
            return box
    return None
