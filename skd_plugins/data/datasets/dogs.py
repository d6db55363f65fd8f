"""Stanford Dogs (Khosla et al. 2011) with its official split: whole images, or cropped to a dog."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import scipy  # its parts are imported on first use

from ..sources import Box, Source, listed_files
from .dataset import Archive, Dataset

FOLDER = "StanfordDogs"
TRAIN, TEST = "train_list.mat", "test_list.mat"


def read_list(path: Path) -> list[tuple[str, int]]:
    """Images, such as ``n02085620-Chihuahua/x.jpg``, and labels from 1."""
    content = scipy.io.loadmat(str(path), squeeze_me=True)
    return list(zip(map(str, content["file_list"]), map(int, content["labels"]), strict=True))


def largest_box(path: Path) -> Box:
    """The largest bounding box of an annotation; an image may show several dogs, and one crop keeps the numbers."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = ElementTree.parse(path).getroot().iter("object")
    boxes = [tuple(int(item.findtext(f"bndbox/{name}", "")) for name in corners) for item in objects]
    left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return left, top, right, bottom


def read(root: Path, train: bool, part: str, *, cropped: bool = False) -> Source:
    """The images of a list in its order; labels from 0. Cropped images show their largest bounding box."""
    folder = root / FOLDER
    lists = {name: read_list(folder / name) for name in (TRAIN, TEST)}
    breeds = sorted({(label, file.partition("/")[0]) for images in lists.values() for file, label in images})
    listed = lists[TRAIN if train else TEST]
    annotations = [(folder / "Annotation" / file).with_suffix("") for file, _ in listed]
    return listed_files(
        f"Stanford Dogs {'training' if train else 'test'} set{', cropped' if cropped else ''}",
        [breed for _, breed in breeds],
        [folder / "Images" / file for file, _ in listed],
        [label - 1 for _, label in listed],
        box_of=(lambda index: largest_box(annotations[index])) if cropped else None,
    )


_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# The owners publish no checksums, so --download does not fetch these.
_IMAGES, _LISTS, _BOXES = (
    Archive(url=f"{_URL}/{file}", contents=f"{FOLDER}/{contents}", into=FOLDER)
    for file, contents in (("images.tar", "Images"), ("lists.tar", TRAIN), ("annotation.tar", "Annotation"))
)
DATASET = Dataset(
    name="dogs",
    title="Stanford Dogs",
    classes=120,
    train=12_000,
    val=8580,
    homepage=f"{_URL}/",
    licence="ImageNet's terms: non-commercial research and education",
    layout=f"{FOLDER}/ (Images/, {TRAIN}, {TEST})",
    read=read,
    archives=(_IMAGES, _LISTS),
)
CROPPED = replace(
    DATASET,
    name="dogs-cropped",
    title="Stanford Dogs, cropped to the annotated dog",
    layout=f"{FOLDER}/ (Images/, Annotation/, {TRAIN}, {TEST})",
    read=partial(read, cropped=True),
    archives=(_IMAGES, _LISTS, _BOXES),
)
