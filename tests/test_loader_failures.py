"""`make_loader` when something goes wrong: epochs left early, dead processes, images that can't be decoded."""

import gc
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pixels, overwrite
from faults.common import Fork
from test_loader import (
    SIZE,
    Copy,
    _no_threads_are_left,  # noqa: F401  a fixture of every test
    assert_same,
    decoders,
    epoch_of,
    loader,
)
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from skd_plugins.common.errors import SkdError, one_line
from skd_plugins.data.augment import Augmentation
from skd_plugins.data.beton.file import BetonFile

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than processors


def test_abandoned_epochs_leave_no_threads(raw_beton: Path) -> None:
    it = loader(raw_beton, batch_size=2, workers=3)
    before = threading.active_count()
    for epoch in range(30):
        for number, _ in enumerate(it):
            assert decoders()
            if number == epoch % 4:
                break
        assert decoders() == []
        assert threading.active_count() == before

    def train() -> None:
        for _ in it:
            raise ZeroDivisionError  # the consumer's own

    with pytest.raises(ZeroDivisionError):
        train()
    assert decoders() == []
    assert_same(epoch_of(it, 7), epoch_of(loader(raw_beton, batch_size=2), 7))


def resources() -> tuple[set[int | None], int]:
    """Child processes and open files."""
    return {child.pid for child in multiprocessing.active_children()}, len(os.listdir("/proc/self/fd"))


def test_abandoned_epochs_leave_no_processes_or_files(png_folder: Path) -> None:
    gc.collect()
    start = resources()
    it = loader(png_folder, batch_size=2, workers=2)
    epoch_of(it)
    children, files = resources()
    assert len(children - start[0]) == 2
    for epoch in range(30):
        for number, _ in enumerate(it):
            if number == epoch % 4:
                break
    assert_same(epoch_of(it, 7), epoch_of(loader(png_folder, batch_size=2), 7))  # nothing left over from before
    now, files_now = resources()
    assert now == children  # the workers stay for the next epoch, the same ones
    assert files_now <= files + 4  # a tensor in flight has one
    begin = time.monotonic()
    del it
    assert resources()[0] == start[0]  # at once, without the garbage collector
    assert time.monotonic() - begin < 4  # which would have torch wait 5 s for each process
    gc.collect()
    assert resources()[1] <= start[1] + 2


class OwnError(Exception):
    """An exception that nobody expects."""


def raises(*_: Any, **__: Any) -> Any:
    raise OwnError("something unforeseen")


def test_exceptions_of_threads_reach_the_caller(raw_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFCV's loader would wait for ever."""
    it = loader(raw_beton, workers=2, batch_size=4)
    monkeypatch.setattr(it.data, "crop", raises)
    with pytest.raises(OwnError, match="something unforeseen"):
        epoch_of(it)
    assert decoders() == []
    monkeypatch.undo()
    assert_same(epoch_of(it, 0), epoch_of(loader(raw_beton, batch_size=4), 0))  # and it can go on


def test_a_killed_process_is_an_error(png_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: torch's handler of SIGCHLD goes on raising, whatever the program does then."""

    def reads() -> None:
        it = loader(png_folder, workers=1, batch_size=2)
        iterator = iter(it)
        next(iterator)
        (worker,) = multiprocessing.active_children()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what torch's handler raises gets lost where it hits an import
        worker.kill()
        for batches in (iterator, it, it):  # the rest of this epoch may have been decoded before
            list(batches)

    done = Fork(one_line(reads), tmp_path / "said.txt").end()
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: a process that reads images died: .*workers=0, or a \.beton file", error)
    assert "\nTraceback" not in done.stderr  # torch logs one, indented, where the handler's error hits its own import


@pytest.fixture
def broken(request: pytest.FixtureRequest, copied: Copy, tmp_path: Path) -> Callable[..., Path]:
    """The pictures with some undecodable ones among them."""

    def make(kind: str, indices: list[int]) -> Path:
        if kind == "folder":
            folder = tmp_path / f"from {indices[0]}" / "train"
            shutil.copytree(request.getfixturevalue("jpeg_folder"), folder)
            for index in indices:
                file = sorted(folder.rglob("*.jpg"))[index]
                file.write_bytes(file.read_bytes()[:600])
            return folder
        path = copied(request.getfixturevalue("beton"), alone=kind == "foreign beton")
        data = BetonFile(path)
        for index in indices:
            size = int(data._sizes[index])
            overwrite(path, int(data._pointers[index]) + size // 3, bytes(size // 2))
        return path

    return make


KINDS = {
    "folder": r"train/bee/08\.jpg \(index 8\) can't be decoded: OSError: .*[Tt]runcated.*",
    "beton": r"image 8 of .*train\.beton can't be decoded: its bytes are not those that were written \(CRC-32",
    "foreign beton": r"image 8 of .*train\.beton can't be decoded: damaged JPEG data",
}


@pytest.mark.parametrize(("train", "workers"), [(True, 2), (False, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_undecodable_images_are_named(broken: Callable[..., Path], kind: str, train: bool, workers: int) -> None:
    it = loader(broken(kind, [8]), train=train, workers=workers, batch_size=4)
    for epoch in (0, 3):
        with pytest.raises(SkdError, match=f"{KINDS[kind]}.*; repair it, or use skip_broken=true"):
            epoch_of(it, epoch)
        assert decoders() == []
    if not train:
        with pytest.raises(SkdError, match=KINDS[kind]):
            it.picture(8)


def test_undecodable_images_with_augmentation(broken: Callable[..., Path]) -> None:
    """Worker processes read the `.beton` file then; the image that replaces another is augmented as that would be."""
    path, spec = broken("beton", [8]), Augmentation(image_size=SIZE, auto_augment="ta_wide", random_erasing=0.5)
    options: dict[str, Any] = {"augmentation": spec, "image_size": None, "batch_size": 4}
    with pytest.raises(SkdError, match=f"{KINDS['beton']}.*; repair it, or use skip_broken=true"):
        epoch_of(loader(path, workers=2, **options))
    it = loader(path, workers=2, skip_broken=True, **options)
    assert_same(epoch_of(it), epoch_of(loader(path, skip_broken=True, **options)))
    assert list(it.skipped) == [8]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_without_the_undecodable(broken: Callable[..., Path], kind: str) -> None:
    bad = [0, 7, 8, 12, 13, 14, 15]  # all of the last batch of four among them
    it = loader(broken(kind, bad), train=False, workers=2, batch_size=4, skip_broken=True)
    it.skipped = {99: "counted anew each time"}
    batches = epoch_of(it)
    assert [len(input) for input, _ in batches] == [3, 3, 3]
    sound = [index for index in range(16) if index not in bad]
    assert torch.cat([target for _, target in batches]).tolist() == it.data.targets[sound].tolist()
    assert sorted(it.skipped) == bad
    assert all(it.skipped.values())
    expected, pixels = loader(it.data.path, train=False), torch.cat([input for input, _ in batches])
    for row, index in enumerate(sound):
        np.testing.assert_array_equal(expected.picture(index), denormalised(pixels[row]))


def denormalised(image: Tensor) -> Pixels:
    floats = (image.permute(1, 2, 0).numpy() * IMAGENET_DEFAULT_STD + IMAGENET_DEFAULT_MEAN) * 255
    rounded: Pixels = np.rint(floats).astype(np.uint8)
    return rounded


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_training_with_substitutes(broken: Callable[..., Path], kind: str, workers: int) -> None:
    """Another image of the class takes the place, so that batches keep shape and classes."""
    bad = [0, 1, 8]
    options: dict[str, Any] = {"segments": ("anchor", "pair", "clean"), "batch_size": 4, "skip_broken": True}
    it = loader(broken(kind, bad), workers=workers, **options)
    assert it.order is not None
    batches = epoch_of(it, 0)
    assert sorted(it.skipped) == bad
    anchors, pairs = it.order.anchors(0), it.order.pairs(0)
    labels = it.data.targets
    clean = loader(it.data.path, train=False)
    for step, (input, target) in enumerate(batches):
        place = slice(4 * step, 4 * step + 4)
        assert input.shape == (12, 3, SIZE, SIZE)
        assert target.tolist() == np.tile(labels[anchors[place]], 3).tolist()
        for row, index in enumerate(np.concatenate([anchors[place], pairs[place], anchors[place]])):
            assert input[row].std() > 0.1  # a picture
            if row >= 8:  # the clean segment tells which image it is: the next sound one of the class
                substitute = {0: 2, 1: 2, 8: 9}.get(int(index), int(index))
                np.testing.assert_array_equal(denormalised(input[row]), clean.picture(substitute))
                assert labels[substitute] == labels[index]
    # a run that was resumed, with another number of workers, and has not met the broken ones before, does the same
    again = loader(it.data.path, workers=0 if workers else 2, **options)
    assert_same(epoch_of(again, 0, 2), batches[2:])
    # and the next epoch of this loader, which knows the broken ones by now, is that of a new one
    assert_same(epoch_of(it, 1), epoch_of(loader(it.data.path, **options), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_most_or_all_of_a_class_undecodable(broken: Callable[..., Path], kind: str) -> None:
    """Five of six of a class, in batches of couples: some batches have no sound image at all."""
    it = loader(broken(kind, [0, 1, 2, 3, 4]), couples=True, batch_size=2, skip_broken=True)
    for epoch in range(3):
        for input, target in epoch_of(it, epoch):
            assert input.shape[1:] == (3, SIZE, SIZE)
            assert len(input) == len(target) >= 2
            assert input.std(dim=(1, 2, 3)).min() > 0.1
    assert sorted(it.skipped) == [0, 1, 2, 3, 4]
    it = loader(broken(kind, list(range(6, 11))), skip_broken=True)
    with pytest.raises(SkdError, match="can't be decoded, nor can any other image of its class"):
        epoch_of(it)
