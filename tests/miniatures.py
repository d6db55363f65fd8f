"""Small data sets in the real archives' layouts and file formats. Every picture's colour tells its label."""

import hashlib
import pickle
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 3, 2  # images a class
BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02086646-Blenheim_spaniel")
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani")
ROOMS = ("airport_inside", "artstudio", "children_room")
WNIDS = ("n03444034", "n01443537", "n02124075")  # not sorted, as in TinyImageNet's wnids.txt


def colour(name: str) -> tuple[int, int, int]:
    """A colour for a class name; JPEG keeps it within a few levels."""
    code = zlib.crc32(name.encode())
    return tuple(32 * (code >> shift & 7) + 15 for shift in (0, 8, 16))  # type: ignore[return-value]


def picture(name: str, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour(name), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}))


def cub200(root: Path) -> Path:
    """Images numbered through classes and halves in turn, as the numbers in the archive say nothing about either."""
    folder = root / "CUB_200_2011"
    classes = "".join(f"{label} {bird}\n" for label, bird in enumerate(BIRDS, 1))
    lists = {"images": "", "image_class_labels": "", "train_test_split": "", "classes": classes}
    for number, (copy, (label, bird)) in enumerate(product(range(TRAIN + TEST), enumerate(BIRDS, 1)), 1):
        file = f"{bird}/{bird[4:]}_{number:04d}_{100 + number}.jpg"
        save(folder / "images" / file, picture(bird))
        lists["images"] += f"{number} {file}\n"
        lists["image_class_labels"] += f"{number} {label}\n"
        lists["train_test_split"] += f"{number} {int(copy < TRAIN)}\n"
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
    return root


def matlab_list(path: Path, files: list[str], labels: list[int]) -> None:
    """As Stanford Dogs' lists: cells of strings, and a column of labels."""
    cells = np.array(files, dtype=object)[:, None]
    annotations = np.array([file.removesuffix(".jpg") for file in files], dtype=object)[:, None]
    column = np.array(labels, dtype=np.uint8)[:, None]
    savemat(path, {"file_list": cells, "annotation_list": annotations, "labels": column})


ANNOTATION = """<annotation>
	<folder>02085620</folder>
	<filename>{name}</filename>
	<size><width>32</width><height>24</height><depth>3</depth></size>
	<object><name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
	<object><name>dog</name><bndbox><xmin>8</xmin><ymin>4</ymin><xmax>28</xmax><ymax>20</ymax></bndbox></object>
</annotation>
"""


def dogs(root: Path) -> Path:
    """A dog's colour is inside the larger of two boxes only."""
    folder = root / "StanfordDogs"
    listed: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for (label, breed), copy in product(enumerate(BREEDS, 1), range(TRAIN + TEST)):
        file = f"{breed}/{breed.partition('-')[0]}_{copy}.jpg"
        pixels = np.zeros_like(picture(breed))
        pixels[4:20, 8:28] = colour(breed)
        save(folder / "Images" / file, pixels)
        annotation = (folder / "Annotation" / file).with_suffix("")
        annotation.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(ANNOTATION.format(name=annotation.name))
        files, labels = listed["train" if copy < TRAIN else "test"]
        files.append(file)
        labels.append(label)
    for half_name, (files, labels) in listed.items():
        matlab_list(folder / f"{half_name}_list.mat", files, labels)
    return root


def mit67(root: Path) -> Path:
    folder = root / "MIT67"
    lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
    for copy, room in product(range(TRAIN + TEST), reversed(ROOMS)):
        file = f"{room}/{room}_{copy}_gif.jpg"
        save(folder / "Images" / file, picture(room))
        lists["TrainImages.txt" if copy < TRAIN else "TestImages.txt"].append(file)
    for name, lines in lists.items():
        (folder / name).write_bytes("\r\n".join(lines).encode())
    return root


def mixed(root: Path) -> Path:
    for build in (cub200, dogs, mit67):
        build(root)
    return root


def tinyimagenet(root: Path) -> Path:
    folder = root / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(WNIDS):
        for copy in range(TRAIN):
            save(folder / "train" / wnid / "images" / f"{wnid}_{copy}.JPEG", picture(wnid, 64, 64))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        for copy in range(TEST):
            image = f"val_{number + copy * len(WNIDS)}.JPEG"
            save(folder / "val" / "images" / image, picture(wnid, 64, 64))
            lines.append(f"{image}\t{wnid}\t0\t32\t44\t62")
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    save(folder / "test" / "images" / "test_0.JPEG", picture("unlabelled", 64, 64))
    return root


def imagenet(root: Path, **halves: int) -> Path:
    for half, count in (halves or {"train": TRAIN, "val": TEST}).items():
        for wnid, copy in product(WNIDS, range(count)):
            save(root / half / wnid / f"{wnid}_{copy}.JPEG", picture(wnid))
    return root


def imagenet_flat(root: Path) -> Path:
    """The validation images as their archive has them, and the devkit; its ids follow another order than the WNIDs."""
    imagenet(root, train=TRAIN)
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    ids = {wnid: number for number, wnid in enumerate(WNIDS, 1)}
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8"), ("children", "O")]
    rows = [(number, wnid, f"thing, {wnid}", 0, np.zeros(0)) for wnid, number in ids.items()]
    rows.append((4, "n00001740", "entity", 3, np.array([1.0, 2.0, 3.0])))  # not a leaf
    synsets = np.array(rows, dtype=kinds)[:, None]
    savemat(devkit / "meta.mat", {"synsets": synsets})
    truth = []
    for number in range(1, TEST * len(WNIDS) + 1):
        wnid = WNIDS[number % len(WNIDS)]
        save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", picture(wnid))
        truth.append(str(ids[wnid]))
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth) + "\n")
    return root


def cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images a half; torchvision is told their check sums."""
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir()
    draw = np.random.default_rng(0)
    files: dict[str, Any] = {"meta": {"fine_label_names": [f"thing {i:02d}" for i in range(100)]}}
    for name in ("train", "test"):
        pixels, labels = draw.integers(0, 256, (10, 3072), dtype=np.uint8), draw.integers(0, 100, 10).tolist()
        names = [f"{name}{i}.png" for i in range(10)]
        rest = {"coarse_labels": [0] * 10, "filenames": names, "batch_label": name}
        files[name] = {"data": pixels, "fine_labels": labels, **rest}
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")  # nobody listens there
    return root


def cifar100c(root: Path, corruptions: tuple[str, ...] = ("fog", "saturate"), count: int = 4) -> Path:
    """`count` images at five severities; a pixel's first channel is the severity, its second the image's number."""
    folder = root / "CIFAR-100-C"
    folder.mkdir()
    for corruption in corruptions:
        images = np.zeros((5 * count, 32, 32, 3), dtype=np.uint8)
        images[..., 0] = np.repeat(np.arange(1, 6), count)[:, None, None]
        images[..., 1] = np.tile(np.arange(count), 5)[:, None, None]
        np.save(folder / f"{corruption}.npy", images)
    np.save(folder / "labels.npy", np.tile(np.arange(count) * 7, 5).astype(np.uint8))
    return root


def odin(root: Path) -> Path:
    """The folders of ODIN's archives; the Mac's hidden files are in one of them."""
    for folder, ending in (("LSUN/test", "jpg"), ("LSUN_resize/LSUN_resize", "png"), ("iSUN/iSUN_patches", "jpeg")):
        for copy in range(3):
            save(root / folder / f"{copy}.{ending}", picture(f"{folder}{copy}", 36, 36))
    (root / "LSUN_resize" / "LSUN_resize" / "._0.png").write_bytes(b"\0\5\26\7")
    return root


def dtd(root: Path) -> Path:
    for texture in ("banded", "blotchy"):
        for copy in range(3):
            save(root / "dtd" / "images" / texture / f"{texture}_{copy:04d}.jpg", picture(texture))
    (root / "dtd" / "images" / "banded" / ".directory").write_text("[Dolphin]\n")
    return root


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MATLAB's arrays: pixels [32, 32, 3, N], and labels where 10 stands for the digit 0."""
    from torchvision.datasets import SVHN

    labels = np.array([1, 10, 9, 10, 2], dtype=np.uint8)
    pixels = np.stack([picture(str(label % 10), 32, 32) for label in labels], axis=-1)
    path = root / "test_32x32.mat"
    savemat(path, {"X": pixels, "y": labels[:, None]})
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, "test": ["", path.name, md5]})
    return root
