"""The papers' data sets, each read from a miniature of its real archive, through to training batches."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import miniatures
import numpy as np
import pytest
from miniatures import BIRDS, BREEDS, ROOMS, TEST, TRAIN, WNIDS

from skd_plugins import SkdError, make_loader
from skd_plugins.commands.prepare import WriteOptions, data
from skd_plugins.data import Augmentation, Source, open_source
from skd_plugins.data.datasets import EMBEDDED, KNOWN, find_dataset, list_datasets, mixed
from skd_plugins.data.datasets.cifar100 import CLASSES
from skd_plugins.data.datasets.cifar100c import CORRUPTIONS, EXTRA
from skd_plugins.data.sources import read_hierarchy

Builder = Callable[[Path], Path]
# name: how its miniature is made, and its classes in the order of their labels
TO_TRAIN_ON: dict[str, tuple[Builder, list[str]]] = {
    "cub200": (miniatures.cub200, list(BIRDS)),
    "dogs": (miniatures.dogs, list(BREEDS)),
    "dogs-cropped": (miniatures.dogs, list(BREEDS)),
    "mit67": (miniatures.mit67, list(ROOMS)),
    "tinyimagenet": (miniatures.tinyimagenet, sorted(WNIDS)),
    "imagenet-1k": (miniatures.imagenet, sorted(WNIDS)),
    "imagenet-1k (flat)": (miniatures.imagenet_flat, sorted(WNIDS)),
}
ALL = {
    "digits", "glyphs", "glyphs30", "glyphs82", "glyphs_test", "glyphs_other", "cifar100", "tinyimagenet", "cub200",
    "dogs", "dogs-cropped", "mit67", "mixed", "imagenet-1k", "cifar100c", "lsun-crop", "lsun-resize", "isun", "dtd",
    "svhn",
}  # fmt: skip


def halves(name: str, root: Path) -> tuple[Source, Source]:
    name = name.partition(" ")[0]
    return open_source(name, True, root=root), open_source(name, False, root=root)


def test_all_sets_are_registered_with_the_official_numbers() -> None:
    assert {dataset.name for dataset in list_datasets()} == ALL
    sizes = {each.name: (each.train, each.val, each.classes) for each in list_datasets()}
    assert sizes["mixed"] == (5994 + 30 * 120 + 30 * 67, 5794 + 8580 + 1340, 387)
    evaluation = {name for name, (train, _, _) in sizes.items() if not train}
    assert evaluation == {"glyphs_test", "glyphs_other", "cifar100c", "lsun-crop", "lsun-resize", "isun", "dtd", "svhn"}
    assert set(KNOWN) == ALL - evaluation, "sizes that plans assume come from the catalog"
    assert KNOWN["cub200"] == (5994, 5794, 200)
    assert KNOWN["imagenet-1k"] == (1_281_167, 50_000, 1000)
    assert KNOWN["digits"] == (200, 797, 10), "as they are embedded"
    assert EMBEDDED == ["digits", "glyphs", "glyphs30", "glyphs82", "glyphs_test", "glyphs_other"]
    exact = {dataset.name for dataset in list_datasets() if dataset.exact}
    assert exact == {*EMBEDDED, "cifar100", "tinyimagenet"} | evaluation - {"dtd"}, "small images are stored as pixels"
    for archive in (archive for dataset in list_datasets() for archive in dataset.archives):
        assert archive.url.startswith("http")
        assert archive.md5 or not archive.free, "what is downloaded is checked"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_dataset("cub20"), "unknown dataset 'cub20'; did you mean 'cub200'"),
        (lambda: open_source("cub200", True), "cub200 needs --root: the folder with CUB_200_2011/ .*skd data cub200"),
        (lambda: open_source("isun", True, root=Path()), "isun is for evaluation only"),
        (lambda: open_source("cifar100c", False, root=Path()), "unknown part of cifar100c ''"),
        (lambda: open_source("cub200/x", False, root=Path()), "'cub200/x' is neither an image folder nor one of: "),
        (lambda: data("cifar100c", root=Path(), part=("fogg/1",)), "part of cifar100c 'fogg/1'; did you mean 'fog/1'"),
        (lambda: data("svhn", root=Path(), part=("1",)), "unknown part of svhn '1'; known: none"),
    ],
)
def test_unknown_names_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        call()


@pytest.mark.parametrize("name", TO_TRAIN_ON)
def test_labels_and_pictures_belong_together(name: str, tmp_path: Path) -> None:
    build, classes = TO_TRAIN_ON[name]
    assert len({miniatures.colour(label) for label in classes}) == len(classes), "they are 32 levels apart then"
    names: set[str] = set()
    for source, count in zip(halves(name, build(tmp_path)), (TRAIN, TEST), strict=True):
        assert source.classes == classes
        assert np.bincount(source.targets).tolist() == [count] * len(classes)
        names |= {source.name_of(index) for index in range(len(source.targets))}
        for index, target in enumerate(source.targets):
            image = source.load(index)
            centre = image[image.shape[0] // 2, image.shape[1] // 2].astype(int)
            assert np.abs(centre - miniatures.colour(classes[target])).max() <= 8
    assert len(names) == (TRAIN + TEST) * len(classes), "the halves have no image in common"


def test_a_network_gets_the_right_labels(tmp_path: Path) -> None:
    build, classes = TO_TRAIN_ON["dogs-cropped"]
    out, writing = tmp_path / "out", WriteOptions(raw_share=1.0, workers=1)
    data("dogs-cropped", root=build(tmp_path), out=out, subset=True, writing=writing)
    spec = Augmentation(image_size=16, scale=(0.9, 1.0), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    for train, count in ((True, TRAIN), (False, TEST)):
        path = out / ("train.beton" if train else "val.beton")
        loader = make_loader(path, segments=("anchor", "pair"), batch_size=3, train=train, augmentation=spec, workers=1)
        assert loader.classes == classes
        seen = 0
        for input, target in loader:
            seen += len(target)
            expected = np.array([miniatures.colour(classes[label]) for label in target])
            assert np.abs(input[:, :, 8, 8].numpy() - expected).max() <= 8
        assert seen == (2 if train else 1) * count * len(classes), "anchors and pairs of them, or each image once"
    assert not (out / "hierarchy.json").exists()


def test_cropped_dogs_are_the_larger_box(tmp_path: Path) -> None:
    miniatures.dogs(tmp_path)
    whole, cropped = (open_source(name, True, root=tmp_path) for name in ("dogs", "dogs-cropped"))
    np.testing.assert_array_equal(cropped.load(0), whole.load(0)[4:20, 8:28])


def test_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = halves("mixed", miniatures.mixed(tmp_path))
    assert np.bincount(train.targets).tolist() == [TRAIN] * 10, "all of a class that has fewer than 30"
    monkeypatch.setattr(mixed, "PER_CLASS", 2)
    train, val = halves("mixed", tmp_path)
    names = [
        f"{group} {name}" for group, part in (("bird", BIRDS), ("dog", BREEDS), ("indoor", ROOMS)) for name in part
    ]
    assert train.classes == val.classes == names == sorted(names), "an image folder has the same labels"
    assert train.hierarchy == val.hierarchy == ["bird"] * 4 + ["dog"] * 3 + ["indoor"] * 3
    assert np.bincount(train.targets).tolist() == [2] * 10
    assert np.bincount(val.targets).tolist() == [TEST] * 10
    for source in (train, val):
        for index, target in enumerate(source.targets):
            assert f"/{names[target].partition(' ')[2]}/" in source.name_of(index)
            centre = source.load(index)[12, 16].astype(int)
            assert np.abs(centre - miniatures.colour(names[target].partition(" ")[2])).max() <= 8
    again = open_source("mixed", True, root=tmp_path)
    assert [again.name_of(i) for i in range(20)] == [train.name_of(i) for i in range(20)], "the seed is fixed"


def test_the_hierarchy_is_stored_with_the_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    data("mixed", root=miniatures.mixed(tmp_path), out=out, subset=True, writing=WriteOptions(folder=True))
    table = read_hierarchy(out)
    assert list(table.values()) == ["bird"] * 4 + ["dog"] * 3 + ["indoor"] * 3
    assert list(table) == make_loader(out / "val", train=False, workers=1).classes
    with pytest.raises(SkdError, match="these data have no hierarchy"):
        read_hierarchy(tmp_path)


def test_cifar100c(tmp_path: Path) -> None:
    """Every severity, read, and written without loss."""
    root, out = miniatures.cifar100c(tmp_path), tmp_path / "out"
    assert (len(CORRUPTIONS), len(CLASSES)) == (15, 100)
    assert len(find_dataset("cifar100c").parts) == 19 * 5 == 5 * len({*CORRUPTIONS, *EXTRA})
    data("cifar100c", root=root, out=out, part=("fog/2", "saturate/5"), subset=True)
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.beton"))
    assert written == ["fog/2/val.beton", "saturate/5/val.beton"]
    for corruption in ("fog", "saturate"):
        for severity in range(1, 6):
            source = open_source(f"cifar100c/{corruption}/{severity}", False, root=root)
            assert source.targets.tolist() == [0, 7, 14, 21]
            assert source.classes[21] == "chimpanzee"
            assert [source.load(index)[3, 4].tolist() for index in range(4)] == [[severity, i, 0] for i in range(4)]
            path = out / corruption / str(severity) / "val.beton"
            if path.exists():
                spec = Augmentation(image_size=32, crop_pct=1.0)
                ((input, target),) = make_loader(path, train=False, augmentation=spec, workers=1).host_batches()
                assert target.tolist() == source.targets.tolist()
                for index in range(4):
                    np.testing.assert_array_equal(input[index].permute(1, 2, 0), source.load(index))
    assert source.name_of(2) == f"image 18 of {root / 'CIFAR-100-C' / 'saturate.npy'}"


@pytest.mark.parametrize(("name", "folder"), [("lsun-crop", "LSUN"), ("lsun-resize", "LSUN_resize"), ("isun", "iSUN")])
def test_odins_archives(name: str, folder: str, tmp_path: Path) -> None:
    source = open_source(name, False, root=miniatures.odin(tmp_path))
    assert source.targets.tolist() == [0, 0, 0]
    assert source.classes == [name]
    inner = next((tmp_path / folder).iterdir()).name
    for index in range(3):
        expected = miniatures.colour(f"{folder}/{inner}{index}")
        assert np.abs(source.load(index)[18, 18].astype(int) - expected).max() <= 8
    shutil.rmtree(tmp_path / folder / inner)
    with pytest.raises(SkdError, match=f"{folder} has no images at any depth; unpack the archive of {name}"):
        open_source(name, False, root=tmp_path)


def test_dtd(tmp_path: Path) -> None:
    with pytest.raises(SkdError, match="dtd-r1.0.1.tar.gz"):
        open_source("dtd", False, root=tmp_path)
    source = open_source("dtd", False, root=miniatures.dtd(tmp_path))
    assert source.classes == ["banded", "blotchy"]
    assert source.targets.tolist() == [0, 0, 0, 1, 1, 1]
    (tmp_path / "torchvision" / "dtd").mkdir(parents=True)
    (tmp_path / "dtd").rename(tmp_path / "torchvision" / "dtd" / "dtd")
    assert open_source("dtd", False, root=tmp_path / "torchvision").targets.tolist() == source.targets.tolist()


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("svhn", False, root=miniatures.svhn(tmp_path, monkeypatch))
    assert source.targets.tolist() == [1, 0, 9, 0, 2]
    for index, target in enumerate(source.targets):
        np.testing.assert_array_equal(source.load(index), miniatures.picture(str(target), 32, 32))


@pytest.mark.parametrize(
    ("images", "classes", "label", "found"),
    [
        (26_032, 10, 3, ""),
        (26_031, 10, 3, "26,031 images of 10 classes, officially 26,032 of 10; complete .*--subset"),
        (26_032, 10, 4, r"10 classes \(1 of them without images\)"),
    ],
)
def test_counts_are_compared_with_the_official_ones(
    images: int, classes: int, label: int, found: str, tmp_path: Path
) -> None:
    targets = np.arange(images) % 10
    targets[targets == 3] = label
    source = Source("x", [str(i) for i in range(classes)], targets, lambda index: np.zeros((1, 1, 3), np.uint8), str)
    with pytest.raises(SkdError, match=found) if found else nullcontext():
        find_dataset("svhn").check(source, False, root=tmp_path)


def test_halves_with_different_classes_are_refused(tmp_path: Path) -> None:
    root = miniatures.imagenet(tmp_path)
    data("imagenet-1k", root=root, subset=True)  # without the devkit, which only a flat val/ needs
    shutil.rmtree(root / "val" / WNIDS[0])
    with pytest.raises(SkdError, match="the training and the validation half have different classes"):
        data("imagenet-1k", root=root, subset=True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CUB, DOGS, TINY = Path("CUB_200_2011"), Path("StanfordDogs"), Path("tiny-imagenet-200")
DEVKIT = Path("ILSVRC2012_devkit_t12/data")
# what is done to a set, and what is said
BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("cub200", lambda root: (root / CUB / "images.txt").unlink(), "FileNotFoundError: .*images.txt"),
    ("cub200", lambda root: edit(root / CUB / "classes.txt", "1 001", "one 001"), "ValueError: .*'one'"),
    ("cub200", lambda root: edit(root / CUB / "train_test_split.txt", "\n20 0\n", "\n"), "KeyError: 20"),
    (
        "cub200", lambda root: next((root / CUB / "images").rglob("*_0017_*")).unlink(),
        "Black_footed_Albatross_0017_117.jpg does not exist, but is in the list of the CUB-200-2011 test set",
    ),
    ("dogs", lambda root: (root / DOGS / "test_list.mat").write_bytes(b"no"), "MatReadError: Mat file"),
    ("mixed", lambda root: (root / DOGS / "test_list.mat").unlink(), "dogs can't .*FileNotFoundError: .*test_list.mat"),
    ("tinyimagenet", lambda root: edit(root / TINY / "val" / "val_annotations.txt", WNIDS[0], "n9"), "'n9' is not in"),
    (
        "tinyimagenet", lambda root: shutil.rmtree(root / TINY / "train" / WNIDS[1] / "images"), "has no .JPEG images"
    ),
    (
        "imagenet-1k (flat)", lambda root: (root / "val" / "ILSVRC2012_val_00000003.JPEG").unlink(),
        r"has 5 images, .*ground_truth.txt has 6 lines",
    ),
    ("imagenet-1k (flat)", lambda root: (root / DEVKIT / "meta.mat").unlink(), "FileNotFoundError: .*meta.mat"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN)
def test_incomplete_and_damaged_sets(name: str, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    build = miniatures.mixed if name == "mixed" else TO_TRAIN_ON[name][0]
    root = build(tmp_path)  # the tests above read it undamaged
    damage(root)
    with pytest.raises(SkdError, match=message) as raised:
        halves(name, root)
    assert "\n" not in str(raised.value)
