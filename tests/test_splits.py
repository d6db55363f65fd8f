"""From a recipe's data argument to its two halves."""

import sys
from pathlib import Path

import numpy as np
import pytest

from skd_plugins.common.errors import SkdError
from skd_plugins.common.files import cache_folder
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.datasets import KNOWN, open_source
from skd_plugins.data.find import embedded_digits, find_split, resolve_data
from skd_plugins.data.folder import FolderData

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
    before = {path.name: path.stat().st_mtime_ns for path in digits_beton.iterdir() if path.name != ".lock"}
    assert embedded_digits(digits_beton) == digits_beton  # written once
    assert {path.name: path.stat().st_mtime_ns for path in digits_beton.iterdir() if path.name != ".lock"} == before
    assert sorted(before) == FILES


def test_embedded_digits_without_ffcv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG folders then, with the same images in the same classes."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)
    folder = embedded_digits(tmp_path / "digits")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "train", "val"]
    for half, count in (("train", 200), ("val", 797)):
        assert find_split(folder, half == "train") == folder / half
        data = FolderData(folder / half)
        assert len(data) == count
        assert data.classes == [str(label) for label in range(10)]
    assert np.bincount(FolderData(folder / "train").targets).tolist() == [20] * 10
    assert embedded_digits(folder) == folder
