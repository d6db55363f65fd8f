"""`make_loader`: one order, the same pixels whoever decodes them, and the layout of batches."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Pixels, save_folder
from torch import Tensor

from skd_plugins.common.errors import SkdError
from skd_plugins.data import Augmentation, Loader, make_loader, open_data, write_beton
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.order import Division
from skd_plugins.data.sources import FolderData, image_folder

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than processors
Copy = Callable[..., Path]
Batches = list[tuple[Tensor, Tensor]]
SIZE = 24


@pytest.fixture(params=["png_folder", "raw_beton"], name="data")
def both_data(request: pytest.FixtureRequest) -> Path:
    """The same pictures in the same order, as a folder of PNGs and as pixels in a `.beton`."""
    path: Path = request.getfixturevalue(request.param)
    return path


def loader(path: Path, *, rank: int = 0, world: int = 1, accumulation: int = 1, **options: Any) -> Loader:
    division = Division(rank=rank, world=world, accumulation=accumulation)
    return make_loader(path, division=division, **({"batch_size": 8, "image_size": SIZE, "workers": 0} | options))


def epoch_of(loader: Loader, epoch: int | None = None, start: int = 0) -> Batches:
    if epoch is not None:
        loader.set_epoch(epoch, start)
    return [(input.clone(), target) for input, target in loader]


def assert_same(one: Batches, other: Batches) -> None:
    assert len(one) == len(other) > 0
    for (input, target), (other_input, other_target) in zip(one, other, strict=True):
        assert torch.equal(target, other_target)
        assert torch.equal(input, other_input)


# --------------------------------------------------------------------------------------------------- the same pixels


@pytest.mark.parametrize("segments", [("anchor",), ("anchor", "pair"), ("anchor", "pair", "clean", "view")])
def test_workers_do_not_matter(data: Path, segments: tuple[str, ...]) -> None:
    expected = epoch_of(loader(data, segments=segments), 3)
    assert len(expected) == 2
    for workers in (1, 3):
        assert_same(epoch_of(loader(data, segments=segments, workers=workers), 3), expected)


@pytest.mark.parametrize("segments", [("anchor", "pair"), ("anchor", "view"), ("anchor", "pair", "clean")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_do_not_matter(data: Path, accumulation: int, segments: tuple[str, ...]) -> None:
    """Rank 0's and rank 1's anchors together are the single process's, pixel by pixel; so are the other segments."""
    options: dict[str, Any] = {"segments": segments, "batch_size": 8, "seed": 5}
    alone = epoch_of(loader(data, **options), 1)
    ranks = [epoch_of(loader(data, **options, world=2, rank=rank, accumulation=accumulation), 1) for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [2 * accumulation] * 2
    for step, (input, target) in enumerate(alone):
        parts = [ranks[rank][step * accumulation + micro] for micro in range(accumulation) for rank in (0, 1)]
        for whole, place in ((input, 0), (target, 1)):
            divided = [part[place].chunk(len(segments)) for part in parts]
            together = torch.cat([share[role] for role in range(len(segments)) for share in divided])
            assert torch.equal(together, whole)


def test_epochs_follow_one_another_and_differ(data: Path) -> None:
    it = loader(data)
    first, second = epoch_of(it), epoch_of(it)
    assert_same(first, epoch_of(loader(data), 0))
    assert_same(second, epoch_of(loader(data), 1))
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], epoch_of(loader(data, seed=1))[0][0])
    assert_same(epoch_of(it, 0), first)  # back again
    assert_same(epoch_of(it), second)


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_by_epoch(data: Path, workers: int) -> None:
    """Each epoch is that of a loader of its size: order, boxes and flips do not change. Evaluation has its own size."""
    options: dict[str, Any] = {"segments": ("anchor", "pair", "clean"), "workers": workers, "image_size": 20}
    spec = Augmentation(sizes=((0, 16), (2, SIZE)))
    progressive = loader(data, augmentation=spec, **options)
    for epoch, side in enumerate((16, 16, SIZE, SIZE)):
        batches = epoch_of(progressive)
        assert {input.shape[-2:] for input, _ in batches} == {(side, side)}
        assert_same(batches, epoch_of(loader(data, **options | {"image_size": side}), epoch))
    assert_same(epoch_of(progressive, 1, 1), epoch_of(loader(data, **options | {"image_size": 16}), 1, 1))
    evaluation = loader(data, train=False, augmentation=spec, **options)
    for _ in range(2):
        assert_same(epoch_of(evaluation), epoch_of(loader(data, train=False, **options)))


@pytest.mark.parametrize(("train", "image_size", "mean", "worst"), [(True, 32, 2, 5), (False, 28, 6, 13)])
def test_back_ends_agree(
    png_folder: Path, raw_beton: Path, train: bool, image_size: int, mean: float, worst: float
) -> None:
    """Order and targets to the last bit, and the boxes, so that training pixels differ by the resizing filters only.

    Measured, in grey levels: 1.2 on average and 3.4 for the worst image in training; 4.1 and 10.1 in evaluation, where
    one back end resizes before it crops, which on these small pictures moves them by up to half a pixel. Images that
    are not the same ones differ by 95.
    """
    options: dict[str, Any] = {"train": train, "image_size": image_size, "segments": ("anchor", "pair")}
    folder, beton = (loader(path, **options) for path in (png_folder, raw_beton))
    assert folder.classes == beton.classes == list(CLASSES)
    assert (folder.num_classes, folder.num_samples) == (beton.num_classes, beton.num_samples) == (3, 16)
    differences, unrelated = [], []
    for (ours, target), (theirs, their_target) in zip(host(folder), host(beton), strict=True):
        assert torch.equal(target, their_target)
        differences.append((ours.float() - theirs.float()).abs().mean(dim=(1, 2, 3)))
        unrelated.append((ours.float() - theirs.float().roll(1, 0)).abs().mean())
    difference = torch.cat(differences)
    print(f"train={train}: {difference.mean():.1f} on average, {difference.max():.1f} for the worst")
    assert 0 < difference.mean() < mean
    assert difference.max() < worst
    assert min(unrelated) > 40


def host(loader: Loader) -> Batches:
    """A batch as uint8, before it goes to the device."""
    return [(input.clone(), target) for input, target in loader.host_batches()]


def test_back_ends_agree_exactly_without_resizing(photographs: list[Pixels], tmp_path: Path) -> None:
    """Shifted by whole pixels and flipped, as for CIFAR: there is no filter to differ."""
    squares = [np.ascontiguousarray(picture[:40, :40]) for picture in photographs]
    folder = save_folder(squares, tmp_path / "train", "png")
    beton = write_beton(image_folder(folder), tmp_path / "train.beton", raw_share=1.0, workers=1)
    spec = Augmentation(image_size=40, mode="shift", padding=5)
    batches = [
        epoch_of(loader(p, augmentation=spec, image_size=None, segments=("anchor", "pair"))) for p in (folder, beton)
    ]
    assert_same(*batches)
    # black borders, and flips in half of the images, or this would compare too little
    uint8 = torch.cat([input for input, _ in host(loader(beton, augmentation=spec, image_size=None))])
    assert (uint8 == 0).all(dim=(1, 2)).any(dim=1).float().mean() > 0.5


# ------------------------------------------------------------------------------------------------------------- layout


def test_segments(data: Path) -> None:
    it = loader(data, segments=("anchor", "pair", "view", "clean"), batch_size=6)
    assert it.order is not None
    assert it.segments == ("anchor", "pair", "view", "clean")
    clean_pixels = torch.cat([input for input, _ in epoch_of(loader(data, train=False))])
    batches = epoch_of(it, 1)
    assert [len(input) for input, _ in batches] == [24, 24, 16]
    anchors, pairs, done = it.order.anchors(1), it.order.pairs(1), 0
    for input, target in batches:
        size = len(input) // 4
        anchor, pair, view, clean = input.chunk(4)
        place = slice(done, done + size)
        # targets: the pair's is its own, which is the anchor's class
        assert torch.equal(target, torch.from_numpy(it.data.targets[anchors[place]]).repeat(4))
        assert (it.data.targets[pairs[place]] == it.data.targets[anchors[place]]).all()
        # the clean one is the evaluation's image of the anchor
        assert torch.equal(clean, clean_pixels[torch.from_numpy(anchors[place])])
        # the view is the anchor's image, cropped elsewhere; the pair is mostly another image
        for row, index in enumerate(anchors[place]):
            elsewhere = not torch.equal(anchor[row], view[row])
            assert elsewhere or index in (6, 7)  # the two extreme shapes have one box in most tries
            assert not torch.equal(anchor[row], pair[row]) or index == pairs[done + row]
        done += size
    assert done == 16


def test_evaluation(data: Path, photographs: list[Pixels]) -> None:
    """In the samples' order, each once, over any number of processes, the same every time."""
    expected = epoch_of(loader(data, train=False, batch_size=16))
    assert len(expected) == 1
    assert expected[0][1].tolist() == np.repeat([0, 1, 2], list(CLASSES.values())).tolist()
    for world, batch_size in ((1, 5), (2, 3), (3, 8), (5, 2), (20, 4)):
        shards = [loader(data, train=False, batch_size=batch_size, world=world, rank=rank) for rank in range(world)]
        batches = [epoch_of(shard) for shard in shards]
        assert [len(b) for b in batches] == [len(shard) for shard in shards]
        assert all(len(input) <= batch_size for shard in batches for input, _ in shard)
        assert torch.equal(torch.cat([input for shard in batches for input, _ in shard]), expected[0][0])
        assert torch.equal(torch.cat([target for shard in batches for _, target in shard]), expected[0][1])
        indices = [shard.indices for shard in shards]
        assert np.concatenate([i for i in indices if i is not None]).tolist() == list(range(16))
    it = loader(data, train=False)
    assert_same(epoch_of(it), epoch_of(it))
    assert it.order is None


@pytest.mark.parametrize("train", [True, False])
def test_normalisation(data: Path, train: bool) -> None:
    """(x / 255 - mean) / std, in float32, in channels-last memory."""
    mean, std = (0.3, 0.5, 0.7), (0.1, 0.2, 0.3)
    spec = Augmentation(image_size=SIZE, mean=mean, std=std)
    floats, integers = (read(loader(data, augmentation=spec, train=train)) for read in (epoch_of, host))
    assert len(floats) == len(integers) == 2
    for (input, target), (pixels, same_target) in zip(floats, integers, strict=True):
        assert torch.equal(target, same_target)
        assert target.dtype == torch.int64
        assert pixels.dtype == torch.uint8
        assert input.shape == (8, 3, SIZE, SIZE)
        assert input.is_contiguous(memory_format=torch.channels_last)
        # exactly what NumPy computes in float32
        shape = (1, 3, 1, 1)
        scaled = [np.array([x * 255 for x in values], np.float32).reshape(shape) for values in (mean, std)]
        expected = (pixels.numpy().astype(np.float32) - scaled[0]) / scaled[1]
        np.testing.assert_array_equal(input.numpy(), expected)
        # which is the formula
        wanted = (pixels.numpy() / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
        np.testing.assert_allclose(input.numpy(), wanted, atol=2e-5)
    assert torch.cat([pixels for pixels, _ in integers]).float().std() > 30  # pictures, not a constant


# -------------------------------------------------------------------------------------------------------- together


def decoders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("skd-decode")]


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    yield
    assert decoders() == []


# ------------------------------------------------------------------------------------------------------------- errors


WRONG = [
    ({"batch_size": 0}, "batch_size should be"),
    ({"workers": -1}, "workers should be"),
    ({"image_size": 0}, "image_size should be"),
    ({"batch_size": 7, "couples": True}, "batch_size=7 does not divide .* of an even number of images"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_wrong_arguments(png_folder: Path, options: Any, message: str) -> None:
    with pytest.raises(SkdError, match=message):
        loader(png_folder, **options)


def test_open_data(png_folder: Path, raw_beton: Path, tmp_path: Path, copied: Copy) -> None:
    assert isinstance(open_data(png_folder), FolderData)
    assert isinstance(open_data(str(raw_beton)), BetonFile)
    renamed = copied(raw_beton, alone=True).rename(tmp_path / "ffcv.dat")  # a file of any name
    assert isinstance(open_data(renamed), BetonFile)
    with pytest.raises(SkdError, match=r"data path .*/nowhere does not exist; give a .beton file or a folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(SkdError, match=r"nowhere.beton does not exist"):
        open_data(tmp_path / "nowhere.beton")


@pytest.mark.cuda
def test_batches_on_a_gpu(data: Path) -> None:
    """Pinned, copied while the last one is used, and normalised there: to within a rounding of the CPU's."""
    options: dict[str, Any] = {"segments": ("anchor", "pair"), "batch_size": 4}
    expected = epoch_of(loader(data, **options), 1)
    got = epoch_of(loader(data, device="cuda", workers=2, **options), 1)
    for (input, target), (on_cpu, same_target) in zip(got, expected, strict=True):
        assert input.is_cuda
        assert target.is_cuda
        assert input.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(target.cpu(), same_target)
        torch.testing.assert_close(input.cpu(), on_cpu, atol=1e-6, rtol=1e-6)
