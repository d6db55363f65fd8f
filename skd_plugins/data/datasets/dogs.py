"""Stanford Dogs (Khosla et al. 2011), with its official split, whole images or cropped to a dog."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .files import Box, listed_files, whole_number

FOLDER = "StanfordDogs"


def read_list(path: Path) -> list[tuple[str, int]]:
    """``train_list.mat`` or ``test_list.mat``: the images, as ``n02085620-Chihuahua/x.jpg``, and labels from 1.

    Raises:
        SkdError: the file is missing, not MATLAB's, or has other fields.
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(str(path), squeeze_me=True)
        files, numbers = (np.atleast_1d(content[name]) for name in ("file_list", "labels"))
        labels = numbers.astype(np.int64)  # MATLAB's numbers may be stored as any type
        if len(files) != len(labels) or (labels != numbers).any():
            raise ValueError(f"{len(files)} files, {len(labels)} labels, or labels that are not whole")
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist; it is in lists.tar") from None
    except Exception as error:  # whatever SciPy's parser raises for a damaged file
        raise SkdError(f"{path} is not a list of Stanford Dogs ({type(error).__name__}: {error})") from None
    return [
        (str(file), whole_number(label, 1, 10**6, what=f"{path}: the label of {file}"))
        for file, label in zip(files, labels, strict=True)
    ]


def class_names(folder: Path) -> list[str]:
    """The breeds' folders in the order of their labels, which both lists together give.

    Raises:
        SkdError: labels and folders do not go together.
    """
    names: dict[int, str] = {}
    for name in ("train_list.mat", "test_list.mat"):
        for file, label in read_list(folder / name):
            breed = file.partition("/")[0]
            if names.setdefault(label, breed) != breed:
                raise SkdError(f"{folder / name}: {file} has label {label}, which is {names[label]}'s")
    if sorted(names) != list(range(1, len(names) + 1)) or len(set(names.values())) != len(names):
        raise SkdError(f"{folder}: the lists do not number {len(set(names.values()))} breeds from 1 to {len(names)}")
    return [names[label] for label in sorted(names)]


def largest_box(path: Path) -> Box:
    """The largest bounding box of an annotation: (left, top, right, bottom), pixels.

    An image may have several dogs. One crop an image keeps the official numbers.

    Raises:
        SkdError: the file is missing, is not such an annotation, or its box has no area.
    """
    corners = ("xmin", "ymin", "xmax", "ymax")
    try:
        objects = ElementTree.parse(path).getroot().iter("object")
        boxes = [tuple(int(item.findtext(f"bndbox/{name}", "")) for name in corners) for item in objects]
        left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist; it is in annotation.tar") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise SkdError(f"{path} is not an annotation with boxes: {error}") from None
    if not (0 <= left < right and 0 <= top < bottom):
        raise SkdError(f"{path}: the box from ({left}, {top}) to ({right}, {bottom}) has no area")
    return left, top, right, bottom


def _open(root: Path, train: bool, *, cropped: bool) -> Source:
    folder = root / FOLDER
    classes = class_names(folder)
    listed = read_list(folder / ("train_list.mat" if train else "test_list.mat"))
    paths = [folder / "Images" / file for file, _ in listed]
    annotations = [(folder / "Annotation" / file).with_suffix("") for file, _ in listed]
    if cropped and not (folder / "Annotation").is_dir():
        raise SkdError(f"{folder / 'Annotation'} does not exist, and has the boxes; unpack annotation.tar there")
    description = f"Stanford Dogs {'training' if train else 'test'} set{', cropped' if cropped else ''}"
    return listed_files(
        description, classes, paths, [label - 1 for _, label in listed],
        box_of=(lambda index: largest_box(annotations[index])) if cropped else None,
    )  # fmt: skip


def read(root: Path, train: bool, part: str) -> Source:
    """The images of ``train_list.mat`` or ``test_list.mat``, in that order; labels from 0.

    Raises:
        SkdError: a list or an image is missing, or labels and breeds do not go together.
    """
    return _open(root, train, cropped=False)


def read_cropped(root: Path, train: bool, part: str) -> Source:
    """As `read`, each image cropped to its largest bounding box.

    Raises:
        SkdError: as `read`, or the annotations are missing.
    """
    return _open(root, train, cropped=True)


_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# The owners publish no checksums, so these are not downloaded.
_IMAGES, _LISTS, _BOXES = (
    Archive(url=f"{_URL}/{file}", contents=f"{FOLDER}/{contents}", into=FOLDER)
    for file, contents in (("images.tar", "Images"), ("lists.tar", "train_list.mat"), ("annotation.tar", "Annotation"))
)

DATASET = Dataset(
    name="dogs",
    title="Stanford Dogs",
    classes=120,
    train=12_000,
    val=8580,
    homepage=f"{_URL}/",
    licence="ImageNet's terms: non-commercial research and education",
    layout=f"{FOLDER}/ (Images/, train_list.mat, test_list.mat)",
    read=read,
    archives=(_IMAGES, _LISTS),
)
CROPPED = Dataset(
    name="dogs-cropped",
    title="Stanford Dogs, cropped to the annotated dog",
    classes=DATASET.classes,
    train=DATASET.train,
    val=DATASET.val,
    homepage=DATASET.homepage,
    licence=DATASET.licence,
    layout=f"{FOLDER}/ (Images/, Annotation/, train_list.mat, test_list.mat)",
    read=read_cropped,
    archives=(_IMAGES, _LISTS, _BOXES),
)
