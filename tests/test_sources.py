"""Where images come from, and how a recipe's data argument becomes its two halves."""

import pickle
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from skd_plugins.common.errors import SkdError
from skd_plugins.common.files import cache_folder
from skd_plugins.data import Source, open_source
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.datasets import KNOWN
from skd_plugins.data.find import embedded, find_split, resolve_data
from skd_plugins.data.sources import FolderData


def test_digits_halves_are_disjoint_stratified_and_complete() -> None:
    train, val = open_source("digits", True), open_source("digits", False)
    assert np.bincount(train.targets).tolist() == [100] * 10
    assert len(val.targets) == 797
    data = load_digits()
    # each source image is the enlarged original of its label: 1,797 different ones in all
    enlarged = {}
    for image, label in zip(data.images, data.target, strict=True):
        grey = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        enlarged[np.asarray(grey.convert("RGB")).tobytes()] = int(label)
    assert len(enlarged) == 1797
    seen = [
        (source.load(index).tobytes(), int(label))
        for source in (train, val)
        for index, label in enumerate(source.targets)
    ]
    assert dict(seen) == enlarged


def test_the_split_stays_as_it_is(digits_source: Source) -> None:
    """The demo's published numbers belong to this split."""
    assert digits_source.targets[:20].tolist() == [2, 5, 8, 2, 3, 5, 7, 9, 0, 1, 3, 4, 5, 6, 8, 9, 5, 0, 9, 8]
    assert open_source("digits", False).targets[:10].tolist() == [0, 1, 3, 4, 6, 7, 9, 0, 1, 4]
    assert digits_source.subset(20, seed=0).targets[:10].tolist() == [8, 0, 5, 6, 8, 1, 8, 1, 9, 3]


def test_subset(digits_source: Source) -> None:
    subset = digits_source.subset(20, seed=0)
    assert np.bincount(subset.targets).tolist() == [20] * 10
    assert subset.classes == digits_source.classes
    originals = {digits_source.load(index).tobytes(): index for index in range(1000)}
    places = [originals[subset.load(index).tobytes()] for index in range(200)]
    assert places == sorted(set(places))  # in the original order, none twice
    assert digits_source.targets[places].tolist() == subset.targets.tolist()
    assert [subset.name_of(index) for index in (0, 199)] == [digits_source.name_of(places[i]) for i in (0, 199)]
    assert subset.description == "scikit-learn digits, training half, 20 a class (seed 0)"
    images = {
        (count, seed): {digits_source.subset(count, seed).load(i).tobytes() for i in range(10 * count)}
        for count, seed in ((5, 0), (5, 1), (8, 0))
    }
    assert images[5, 0] != images[5, 1]
    assert images[5, 0] < images[8, 0]  # more labels are the same labels and more
    with pytest.raises(SkdError, match=r"--per-class 101: class '0' of .* has only 100 images"):
        digits_source.subset(101, seed=0)
    with pytest.raises(SkdError, match="--per-class must be at least 1, got 0"):
        digits_source.subset(0, seed=0)


def test_open_source_finds_the_halves(png_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SkdError, match=r"has no folder 'val' or 'valid' or .* with one subfolder a class"):
        open_source(str(tmp_path), False)
    for name in ("train", "validation"):
        (tmp_path / name).symlink_to(png_folder)
    for train in (True, False):
        source = open_source(str(tmp_path), train)
        assert len(source.targets) == 16
        assert source.description == f"folder {tmp_path.name}/{'train' if train else 'validation'}"


def test_cifar100_in_the_real_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = miniatures.cifar100(tmp_path, monkeypatch)
    for train, file, half in ((True, "train", "training"), (False, "test", "test")):
        content = pickle.loads((folder / "cifar-100-python" / file).read_bytes())
        source = open_source("cifar100", train, root=folder)
        assert source.targets.tolist() == content["fine_labels"]
        assert len(source.classes) == 100
        assert source.classes[7] == "thing 07"
        planes = content["data"][3].reshape(3, 32, 32)  # the archive has planes, row by row
        np.testing.assert_array_equal(source.load(3), planes.transpose(1, 2, 0))
        assert source.name_of(3) == f"image 3 of CIFAR-100's {half} set"
        assert source.description == f"CIFAR-100 {half} set"
    damaged = folder / "cifar-100-python" / "train"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(
        SkdError, match=rf"cifar100 can't be read from {folder} \(.*refused.*\); complete or replace it, see: skd data"
    ):
        open_source("cifar100", True, root=folder)


# ---- the two halves --------------------------------------------------------------------------------------------------

FILES = sorted(f"{half}.beton{end}" for half in ("train", "val") for end in ("", ".json", ".crc32"))


def test_find_split(tmp_path: Path) -> None:
    with pytest.raises(SkdError, match=f"data path {tmp_path}/nowhere does not exist"):
        find_split(tmp_path / "nowhere", True)
    for train, half in ((True, "train"), (False, "val")):
        with pytest.raises(
            SkdError, match=rf"{tmp_path} has neither {half}\.beton nor a folder {half}; write the data"
        ):
            find_split(tmp_path, train)
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert find_split(tmp_path, True) == tmp_path / "train"
    assert find_split(str(tmp_path), False) == tmp_path / "test"
    (tmp_path / "val").mkdir()
    assert find_split(tmp_path, False) == tmp_path / "val"  # the first of the names
    for half in ("train", "val"):
        (tmp_path / f"{half}.beton").touch()
        assert find_split(tmp_path, half == "train") == tmp_path / f"{half}.beton"  # before the folder
    with pytest.raises(SkdError, match=r"train\.beton has neither train\.beton"):  # the file instead of its folder
        find_split(tmp_path / "train.beton", True)


def test_resolve_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_beton: Path) -> None:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path))
    with pytest.raises(SkdError, match="this recipe needs --data: a folder with imagenet-1k as train.beton"):
        resolve_data("imagenet-1k", None)
    assert resolve_data("imagenet-1k", "/somewhere") == Path("/somewhere")
    assert resolve_data("digits", "/somewhere") == Path("/somewhere")
    (tmp_path / "digits-20").symlink_to(digits_beton)
    assert resolve_data("digits", None) == tmp_path / "digits-20"
    assert resolve_data("imagenet-1k", "digits") == tmp_path / "digits-20"


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "skd_plugins"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "skd_plugins"


def test_embedded_digits(digits_beton: Path) -> None:
    train, val = BetonFile(digits_beton / "train.beton"), BetonFile(digits_beton / "val.beton")
    images, validation_images, classes = KNOWN["digits"]
    assert (len(train), len(val), len(train.classes or [])) == (images, validation_images, classes)
    assert np.bincount(train.targets).tolist() == [20] * 10
    subset, validation = open_source("digits", True).subset(20, seed=0), open_source("digits", False)
    for source, data in ((subset, train), (validation, val)):
        assert data.targets.tolist() == source.targets.tolist()
        assert data.stored(17).tobytes() == source.load(17).tobytes()  # lossless
    before = {path.name: path.stat().st_mtime_ns for path in digits_beton.iterdir()}
    assert embedded("digits", digits_beton) == digits_beton  # written once
    assert {path.name: path.stat().st_mtime_ns for path in digits_beton.iterdir()} == before
    assert sorted(before) == FILES


def test_embedded_digits_without_ffcv(tmp_path: Path, no_ffcv: None) -> None:
    """PNG folders then, with the same images in the same classes."""
    folder = embedded("digits", tmp_path / "digits")
    assert sorted(path.name for path in folder.iterdir()) == ["train", "val"]
    for half, count in (("train", 200), ("val", 797)):
        assert find_split(folder, half == "train") == folder / half
        data = FolderData(folder / half)
        assert len(data) == count
        assert data.classes == [str(label) for label in range(10)]
    assert np.bincount(FolderData(folder / "train").targets).tolist() == [20] * 10
    assert embedded("digits", folder) == folder
