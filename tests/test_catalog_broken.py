"""Data sets whose files are damaged, missing or contradict one another: the message names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import miniatures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import BREEDS, WNIDS
from test_catalog import TO_TRAIN_ON, halves

from skd_plugins import SkdError
from skd_plugins.data import open_source
from skd_plugins.data.datasets.dogs import largest_box
from skd_plugins.data.datasets.listed import read_table, whole_number


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CUB, DOGS, TINY = Path("CUB_200_2011"), Path("StanfordDogs"), Path("tiny-imagenet-200")
DEVKIT = Path("ILSVRC2012_devkit_t12/data")
TRUTH = DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
# set, what is done to it, what is said
BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no list": ("cub200", lambda root: (root / CUB / "images.txt").unlink(), "images.txt does not exist"),
    "no image": (
        "cub200", lambda root: next((root / CUB / "images").rglob("*_0017_*")).unlink(),
        "Black_footed_Albatross_0017_117.jpg does not exist, but is in the list of the CUB-200-2011 test set",
    ),
    "label too high": (
        "cub200", lambda root: edit(root / CUB / "image_class_labels.txt", "\n7 3\n", "\n7 5\n"),
        "the label of image 7 is 5, not from 1 to 4",
    ),
    "list cut off": (
        "cub200", lambda root: edit(root / CUB / "train_test_split.txt", "\n20 0\n", "\n"),
        "images.txt, image_class_labels.txt, train_test_split.txt list different images",
    ),
    "no number": (
        "cub200", lambda root: edit(root / CUB / "classes.txt", "1 001", "one 001"), "is not a number and a value"
    ),
    "no .mat": ("dogs", lambda root: (root / DOGS / "test_list.mat").unlink(), "it is in lists.tar"),
    "two labels of a breed": (
        "dogs",
        lambda root: miniatures.matlab_list(root / DOGS / "test_list.mat", [f"{b}/x.jpg" for b in BREEDS], [1, 3, 2]),
        "the lists do not number 3 breeds from 1; unpack lists.tar again",
    ),
    "no boxes": ("dogs-cropped", lambda root: shutil.rmtree(root / DOGS / "Annotation"), "unpack annotation.tar"),
    "class without test images": (
        "mit67", lambda root: edit(root / "MIT67" / "TestImages.txt", "airport_inside", "airport"),
        "class 'airport' is in only one of TrainImages.txt and TestImages.txt",
    ),
    "unknown class": (
        "tinyimagenet", lambda root: edit(root / TINY / "val" / "val_annotations.txt", WNIDS[0], "n99999999"),
        "class 'n99999999' of val_0.JPEG is not in wnids.txt",
    ),
    "class without images": (
        "tinyimagenet", lambda root: shutil.rmtree(root / TINY / "train" / WNIDS[1] / "images"), "has no .JPEG images"
    ),
    "image missing": (
        "imagenet-1k (flat)", lambda root: (root / "val" / "ILSVRC2012_val_00000003.JPEG").unlink(),
        r"has 5 images, .*ground_truth.txt has 6 lines",
    ),
    "not a class": (
        "imagenet-1k (flat)", lambda root: (root / TRUTH).write_text("9\n1\n1\n1\n1\n1\n"),
        "the class of ILSVRC2012_val_00000001.JPEG is 9, not from 1 to 3",
    ),
    "damaged devkit": (
        "imagenet-1k (flat)", lambda root: (root / DEVKIT / "meta.mat").write_bytes(b"no"), "meta.mat is damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layouts(case: str, tmp_path: Path) -> None:
    name, damage, message = BROKEN[case]
    root = TO_TRAIN_ON[name][0](tmp_path)  # test_catalog reads it undamaged
    damage(root)
    with pytest.raises(SkdError, match=message) as raised:
        halves(name, root)
    assert "\n" not in str(raised.value)
    assert str(root) in str(raised.value) or case == "no image"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation></annotation>", "is damaged .*unpack annotation.tar again"),
        ("<a><object><bndbox><xmin>x</xmin></bndbox></object></a>", "is damaged"),
        (miniatures.ANNOTATION.replace("<xmax>28", "<xmax>8").replace("<xmax>5", "<xmax>1"), "has no area"),
        (None, r"annotation\.tar"),
    ],
)
def test_broken_annotations(text: str | None, message: str, tmp_path: Path) -> None:
    annotation = miniatures.dogs(tmp_path) / DOGS / "Annotation" / BREEDS[0] / "n02085620_0"
    annotation.unlink()
    if text:
        annotation.write_text(text)
    with pytest.raises(SkdError, match=f"n02085620_0.*{message}"):
        open_source("dogs-cropped", True, root=tmp_path).load(0)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("fog", lambda images: images.astype(float), r"fog.npy has float64 \[20, 32, 32, 3\], not uint8"),
        ("fog", lambda images: images[:19], r"fog.npy has uint8 \[19, 32, 32, 3\]"),
        ("labels", lambda labels: labels[:15], "labels.npy has no label from 0 to 99 for each image of fog.npy"),
        ("labels", lambda labels: np.where(labels == 21, 100, labels), "labels.npy has no label from 0 to 99"),
        ("labels", lambda labels: None, "labels.npy is damaged"),
    ],
)
def test_broken_arrays(file: str, change: Callable[..., np.ndarray | None], message: str, tmp_path: Path) -> None:
    path = miniatures.cifar100c(tmp_path) / "CIFAR-100-C" / f"{file}.npy"
    array = change(np.load(path))
    if array is None:
        path.write_bytes(b"no")
    else:
        np.save(path, array)
    with pytest.raises(SkdError, match=message):
        open_source("cifar100c/fog/1", False, root=tmp_path)
    with pytest.raises(SkdError, match=r"snow.npy does not exist; it is in CIFAR-100-C.tar"):
        open_source("cifar100c/snow/1", False, root=tmp_path)


@given(
    table=st.dictionaries(
        st.integers(0, 10**9),
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20),
        max_size=20,
    )
)
def test_tables_are_read_back(table: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "images.txt"
    path.write_text("".join(f"{number} {rest}\n" for number, rest in table.items()), encoding="utf-8")
    assert read_table(path) == table


box = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(1, 90), st.integers(1, 90))


@given(boxes=st.lists(box, min_size=1, max_size=6))
def test_the_largest_box_is_found(
    boxes: list[tuple[int, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("boxes") / "n02085620_1"
    objects = "".join(
        f"<object><name>dog</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{left + width}</xmax>"
        f"<ymax>{top + height}</ymax></bndbox></object>"
        for left, top, width, height in boxes
    )
    path.write_text(f"<annotation>{objects}</annotation>")
    left, top, right, bottom = largest_box(path)
    assert (left, top, right - left, bottom - top) in boxes
    assert (right - left) * (bottom - top) == max(width * height for _, _, width, height in boxes)


@given(text=st.one_of(st.integers(-20, 20), st.text(max_size=4)))
def test_whole_numbers_are_in_range_or_refused(text: object) -> None:
    if str(text) in {f"{zeros}{i}" for i in range(1, 10) for zeros in ("", "0", "00", "000")}:
        assert whole_number(text, 1, 9, what="the label") == int(str(text))
    else:
        with pytest.raises(SkdError) as raised:
            whole_number(text, 1, 9, what="the label")
        assert str(raised.value) == f"the label is {text}, not from 1 to 9"
