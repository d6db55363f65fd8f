"""Writing `.beton` files: what is in them, and that nothing is there under the final name when it went wrong."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Pixels, umask
from PIL import Image

from skd_plugins import __version__
from skd_plugins.commands.prepare import write
from skd_plugins.common.errors import SkdError
from skd_plugins.data import Source, write_beton
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.beton.write import write_folder
from skd_plugins.data.sources import image_folder


def source_of(images: list[Pixels], load: Callable[[int], Pixels] | None = None, classes: int = 2) -> Source:
    return Source(
        description="test pictures",
        classes=[f"class {label}" for label in range(classes)],
        targets=np.arange(len(images)) % classes,
        load=load or (lambda index: images[index]),
        name_of=lambda index: f"picture number {index}",
    )


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """No half file, no process, no shared memory and no changed signal handler, whatever happened."""
    before, handlers = shared_memory(), [signal.getsignal(s) for s in (signal.SIGALRM, signal.SIGINT)]
    yield
    assert [path for path in tmp_path.rglob("*") if ".part" in path.name] == []
    new, deadline = shared_memory() - before, time.monotonic() + 100
    while new & shared_memory():  # other test processes' goes by itself
        assert time.monotonic() < deadline, new
        time.sleep(0.1)
    assert [signal.getsignal(s) for s in (signal.SIGALRM, signal.SIGINT)] == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert multiprocessing.active_children() == []


def stored_pixels(path: Path, index: int) -> Pixels:
    """An image at its stored size, decoded."""
    data = BetonFile(path)
    height, width = int(data.heights[index]), int(data.widths[index])
    out = np.zeros((height, width, 3), np.uint8)
    assert data.crop(index, np.array([0, 0, height, width]), False, out) is None
    return out


# ---------------------------------------------------------------------------------------------------------- contents


def test_what_is_written(beton: Path, jpeg_folder: Path) -> None:
    source, data = image_folder(jpeg_folder), BetonFile(beton)
    assert data.targets.tolist() == source.targets.tolist() == np.repeat([0, 1, 2], list(CLASSES.values())).tolist()
    shapes = [source.load(index).shape[:2] for index in range(len(data))]
    assert list(zip(data.heights.tolist(), data.widths.tolist(), strict=True)) == shapes
    for index in (0, 5, 11, 15):
        difference = stored_pixels(beton, index).astype(int) - source.load(index)
        assert 0 < np.abs(difference).mean() < 6  # compressed once more, at quality 90
    checks = beton.with_name("train.beton.crc32").read_bytes()
    assert json.loads(beton.with_name("train.beton.json").read_text()) == {
        "classes": list(CLASSES),
        "source": f"folder {jpeg_folder.parent.name}/train",
        "num_samples": 16,
        "options": {"max_resolution": None, "jpeg_quality": 90, "raw_share": 0.0},
        "tables_sha256": data.tables_sha256,
        "crc32_sha256": hashlib.sha256(checks).hexdigest(),
        "sha256": hashlib.sha256(beton.read_bytes()).hexdigest(),
        "skd_plugins": __version__,
    }
    stored = [zlib.crc32(data.stored(index).tobytes()) for index in range(16)]
    assert np.frombuffer(checks, "<u4").tolist() == stored
    modes = {path.name: path.stat().st_mode & 0o777 for path in beton.parent.iterdir()}
    assert modes == dict.fromkeys(["train.beton", "train.beton.crc32", "train.beton.json"], 0o644)


def test_raw_images_larger_than_a_page(tmp_path: Path) -> None:
    """FFCV's writer fails on them (issue 243) with the page it has by default."""
    large = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3), dtype=np.uint8)  # 8.67 MB > 8 MiB
    path = write_beton(source_of([large, large[:50, :60]]), tmp_path / "a.beton", raw_share=1.0, workers=2)
    np.testing.assert_array_equal(stored_pixels(path, 0), large)
    np.testing.assert_array_equal(stored_pixels(path, 1), large[:50, :60])


def test_the_page_fits_the_data(tmp_path: Path) -> None:
    """A file has a page for its tables and at least one for its images; FFCV's smallest page has 2 MiB."""
    from ffcv.reader import Reader  # slow to import

    tiny, large = np.full((28, 28, 3), 7, np.uint8), np.zeros((2000, 2000, 3), np.uint8)
    for images, page, workers in (([tiny] * 400, 1 << 21, 0), ([tiny, large], 1 << 24, 0), ([large] * 3, 1 << 23, 1)):
        path = write_beton(source_of(images), tmp_path / "a.beton", workers=workers)
        written = Reader(str(path))
        assert (written.page_size, written.num_samples) == (page, len(images))
        assert 2 * page <= path.stat().st_size < 2.1 * page
        np.testing.assert_allclose(stored_pixels(path, len(images) - 1), images[-1], atol=1)


def test_max_resolution(photographs: list[Pixels], tmp_path: Path) -> None:
    path = write_beton(source_of(photographs), tmp_path / "a.beton", max_resolution=100, raw_share=1.0, workers=1)
    data = BetonFile(path)
    for index, image in enumerate(photographs):
        sides = np.array(image.shape[:2]) * min(100 / max(image.shape), 1)
        assert np.abs(sides - [data.heights[index], data.widths[index]]).max() <= 1
        if max(image.shape) <= 100:
            np.testing.assert_array_equal(stored_pixels(path, index), image)
        else:  # the mean colour stays: it is the picture, only smaller
            means = [pixels.mean(axis=(0, 1)) for pixels in (stored_pixels(path, index), image)]
            np.testing.assert_allclose(*means, atol=1.5)
    assert max(data.heights.max(), data.widths.max()) == 100
    assert json.loads(Path(f"{path}.json").read_text())["options"]["max_resolution"] == 100


def test_jpeg_quality(photographs: list[Pixels], tmp_path: Path) -> None:
    sizes, errors = [], []
    for quality in (10, 90):
        path = write_beton(source_of(photographs), tmp_path / f"{quality}.beton", jpeg_quality=quality, workers=1)
        sizes.append(int(BetonFile(path)._sizes.sum()))
        differences = [np.abs(stored_pixels(path, i).astype(int) - p).mean() for i, p in enumerate(photographs)]
        errors.append(np.mean(differences))
    assert sizes[0] < sizes[1] / 3
    assert errors[0] > 2 * errors[1] > 0


def test_order_and_raw_share_depend_on_the_index_only(digits_source: Source, tmp_path: Path) -> None:
    """FFCV draws it from a generator whose state the forked workers share: neither a share nor repeatable.

    Workers write pages as they come; the samples stay in order.
    """
    modes = []
    for workers in (1, 3):
        np.random.seed(workers)  # neither the caller's generator
        state = np.random.get_state()[1].tolist()
        path = write_beton(digits_source, tmp_path / f"{workers}.beton", raw_share=0.3, workers=workers)
        assert np.random.get_state()[1].tolist() == state  # which is left alone
        data = BetonFile(path)
        modes.append(data._modes.tolist())
        assert data.targets.tolist() == digits_source.targets.tolist()
        for index in np.flatnonzero(data._modes)[::10]:
            assert data.stored(index).tobytes() == digits_source.load(int(index)).tobytes()
    assert modes[0] == modes[1]
    assert len(modes[0]) == 1000
    assert 0.25 < np.mean(modes[0]) < 0.35
    few = replace(digits_source, targets=digits_source.targets[:100])
    path = write_beton(few, tmp_path / "few.beton", raw_share=0.3, workers=1)
    assert BetonFile(path)._modes.tolist() == modes[0][:100]


def test_rewriting(photographs: list[Pixels], tmp_path: Path) -> None:
    """Over a file that a loader has open: the loader keeps what it has, and nothing of the old stays."""
    path = write_beton(source_of(photographs[:4]), tmp_path / "a.beton", raw_share=1.0, workers=1)
    old = BetonFile(path)
    with umask(0o077):
        write_beton(source_of(photographs[4:10], classes=3), path, raw_share=1.0, workers=1)
    new = BetonFile(path)
    assert len(new) == 6
    assert new.classes == ["class 0", "class 1", "class 2"]
    np.testing.assert_array_equal(stored_pixels(path, 0), photographs[4])
    assert old.stored(0).tobytes() == photographs[0].tobytes()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(before) == ["a.beton", "a.beton.crc32", "a.beton.json"]
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    with pytest.raises(SkdError):  # one that fails leaves the old file
        write_beton(source_of(photographs, broken(5, photographs, fails)), path, workers=1)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# ------------------------------------------------------------------------------------------------------------- errors


def broken(index: int, images: list[Pixels], what: Any) -> Callable[[int], Any]:
    """Loads the images, but does something else at one index."""

    def load(asked: int) -> Any:
        if asked == index:
            return what() if callable(what) else what
        return images[asked]

    return load


def fails() -> None:
    raise OSError("broken data stream when reading image file")


@pytest.mark.parametrize(
    ("options", "targets", "message"),
    [
        ({"jpeg_quality": 101}, [0], "--jpeg-quality must be from 1 to 100, got 101"),
        ({"raw_share": 1.5}, [0], "--raw-share must be from 0 to 1, got 1.5"),
        ({"max_resolution": 0}, [0], "--max-resolution must be at least 1, got 0"),
        ({}, [], "test pictures has no images"),
        ({}, [0, 2], "test pictures has labels from 0 to 2, but 2 classes"),
    ],
)
def test_wrong_options_and_labels(
    photographs: list[Pixels], tmp_path: Path, options: Any, targets: list[int], message: str
) -> None:
    source = replace(source_of(photographs), targets=np.array(targets, dtype=np.int64))
    with pytest.raises(SkdError, match=message):
        write_beton(source, tmp_path / "a.beton", **options)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ folders


def test_write_folder(digits_source: Source, tmp_path: Path) -> None:
    subset = digits_source.subset(3, seed=0)
    folder = write_folder(subset, tmp_path / "train")
    back = image_folder(folder)
    assert back.classes == subset.classes
    assert sorted(back.targets.tolist()) == sorted(subset.targets.tolist())
    for index, label in enumerate(subset.targets):
        pixels = np.asarray(Image.open(folder / str(label) / f"{index:06d}.png"))
        np.testing.assert_array_equal(pixels, subset.load(index))


def test_both_halves_are_checked_before_one_is_written(png_folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(png_folder, data / "train")
    shutil.copytree(png_folder, data / "valid")
    (data / "valid" / "cat").rename(data / "valid" / "kat")
    with pytest.raises(SkdError, match="different classes; only one of them has: cat, kat"):
        write(str(data), out=out)
    assert not out.exists()
