"""timm's and torchvision's augmentation: their pixels, the same for any workers, processes and after a resume."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_loader import SIZE, assert_same, both_data, epoch_of, host, loader  # noqa: F401  one is a fixture
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from skd_plugins.common.errors import SkdError
from skd_plugins.common.rng import keys
from skd_plugins.data import Augmentation, Loader
from skd_plugins.data.policy import kept_generators

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than processors
PIXELS: list[dict[str, Any]] = [  # what PIL changes
    {"auto_augment": "rand-m9-mstd0.5-inc1"}, {"auto_augment": "rand-m9-n3-mmax20-mstd101-p0.9-tweights"},
    {"auto_augment": "augmix-m3-w3"}, {"auto_augment": "augmix-m5-w4-d2-b1-a0.5-mstd0.5"}, {"auto_augment": "3a"},
    {"auto_augment": "original-mstd0.5"}, {"auto_augment": "ta_wide"}, {"color_jitter": 0.4}, {"grayscale": 0.5},
    {"auto_augment": "3a", "color_jitter": 0.3, "grayscale": 0.2},
]  # fmt: skip
OTHERS: list[dict[str, Any]] = [
    {"vflip": 0.5}, {"random_erasing": 0.6}, {"random_erasing": 1.0, "erasing_mode": "rand", "erasing_count": 3},
    {"auto_augment": "ta_wide", "color_jitter": 0.3, "grayscale": 0.2, "vflip": 0.5, "random_erasing": 0.5},
]  # fmt: skip


def augmented(path: Path, change: dict[str, Any], **options: Any) -> Loader:
    spec = Augmentation(image_size=SIZE, **change)
    return loader(path, augmentation=spec, image_size=None, segments=("anchor", "pair", "view", "clean"), **options)


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("kind", "change"),
    [*(("raw_beton", change) for change in PIXELS + OTHERS), ("png_folder", PIXELS[-1]), ("png_folder", OTHERS[-1])],
    ids=str,
)
def test_pixels_are_a_function_of_seed_epoch_position_and_segment(
    kind: str, change: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Whoever makes them, and from where on; the generators that a training step uses do not move."""
    data, before = request.getfixturevalue(kind), states()
    expected = epoch_of(augmented(data, change), 3)
    assert states() == before
    it = augmented(data, change, workers=2)
    assert_same(epoch_of(it, 3), expected)
    assert_same(epoch_of(it, 3, 1), expected[1:])  # as after a resume
    ranks = [epoch_of(augmented(data, change, world=2, rank=rank), 3) for rank in (0, 1)]
    for step, (input, _) in enumerate(expected):
        parts = [ranks[rank][step][0].chunk(4) for rank in (0, 1)]
        assert torch.equal(torch.cat([part[role] for role in range(4) for part in parts]), input)
    plain = epoch_of(augmented(data, {}), 3)
    moved = torch.cat([(a != b).flatten(1).any(1) for (a, _), (b, _) in zip(expected, plain, strict=True)])
    anchors, pairs, views, clean = moved.view(len(expected), 4, -1).unbind(1)
    assert not clean.any(), "the clean segment is the evaluation's image"
    assert min(part.float().mean() for part in (anchors, pairs, views)) > 0.2
    assert not torch.equal(expected[0][0], epoch_of(augmented(data, change), 4)[0][0])
    assert not torch.equal(expected[0][0], epoch_of(augmented(data, change, seed=1), 3)[0][0])


def seed_as(*place: int) -> None:
    """As `seed_generators` does, written once more."""
    key = int(keys(*place)[0])
    random.seed(key)
    np.random.seed([key % 2**32, key // 2**32])
    torch.manual_seed(key % 2**63)


@pytest.mark.parametrize("change", PIXELS, ids=str)
def test_pixels_are_timms_and_torchvisions(data: Path, change: dict[str, Any]) -> None:
    """Their transform of the same crop, with their generators seeded for this image."""
    it = augmented(data, change, seed=5)
    plain = augmented(data, {}, seed=5)
    it.set_epoch(2)
    plain.set_epoch(2)
    timms = {"auto_augment": None, "color_jitter": None} | change
    trivial = timms["auto_augment"] == "ta_wide"
    grayscale = timms.pop("grayscale", 0.0)
    _, transform, _ = create_transform(
        SIZE, is_training=True, separate=True, grayscale_prob=grayscale, interpolation="bilinear",
        **timms | ({"auto_augment": None} if trivial else {}),
    )  # fmt: skip
    if trivial:
        transform = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    position = 0
    with kept_generators():
        for (pixels, _), (crops, _) in zip(host(it), host(plain), strict=True):
            anchors = len(pixels) // 4
            for row in range(3 * anchors):
                segment, place = divmod(row, anchors)
                seed_as(5, 2, position + place, segment, 1)
                expected = transform(Image.fromarray(crops[row].permute(1, 2, 0).numpy()))
                np.testing.assert_array_equal(pixels[row].permute(1, 2, 0), np.asarray(expected))
            position += anchors
    assert position == 16


@pytest.mark.parametrize(
    ("name", "magnitude", "bits"),
    [("Posterize", 1, 0), ("Posterize", 8, 3), ("PosterizeIncreasing", 10, 0), ("PosterizeIncreasing", 20, 0)],
)
def test_posterize_to_no_bits_is_black(name: str, magnitude: float, bits: int) -> None:
    """As with Pillow before 13, which refuses 0 bits and would end the training; in timm's own transforms too."""
    operation = AugmentOp(name, prob=1.0, magnitude=magnitude, hparams={"magnitude_max": 20, "img_mean": (0, 0, 0)})
    pixels = np.asarray(operation(Image.new("RGB", (4, 4), "#ffc809")))
    assert pixels[3, 3].tolist() == [value >> (8 - bits) << (8 - bits) for value in (255, 200, 9)]


@pytest.mark.parametrize(("mode", "count"), [("pixel", 1), ("rand", 2), ("const", 1)])
def test_erasing_is_timms(raw_beton: Path, mode: str, count: int) -> None:
    change = {"random_erasing": 0.7, "erasing_mode": mode, "erasing_count": count}
    got, plain = (epoch_of(augmented(raw_beton, what, seed=5), 2) for what in (change, {}))
    erase = RandomErasing(0.7, mode=mode, max_count=count, device="cpu")
    position = erased = 0
    with kept_generators():
        for (input, _), (expected, _) in zip(got, plain, strict=True):
            anchors = len(input) // 4
            for row in range(3 * anchors):
                segment, place = divmod(row, anchors)
                seed_as(5, 2, position + place, segment, 2)
                before = expected[row].clone()
                erase(expected[row])
                erased += int(not torch.equal(before, expected[row]))
            assert torch.equal(input, expected)
            position += anchors
    assert 0.5 < erased / (3 * position) < 0.9


def test_batches_are_mixed_before_they_are_erased(raw_beton: Path) -> None:
    """As by timm's prefetcher."""
    it = augmented(raw_beton, {"random_erasing": 1.0})
    it.mix = lambda input, target: (input * 0, target)
    for input, _ in it:
        erased = (input != 0).any(dim=1).flatten(1).float().mean(1)
        assert (erased[: len(input) * 3 // 4] > 0.01).all()
        assert (erased < 0.4).all()
        assert (erased[len(input) * 3 // 4 :] == 0).all()


def test_evaluation_is_left_alone(data: Path) -> None:
    change = {"auto_augment": "ta_wide", "random_erasing": 1.0, "vflip": 1.0}
    spec = Augmentation(image_size=SIZE, **change)
    assert_same(
        epoch_of(loader(data, train=False, augmentation=spec, image_size=None)), epoch_of(loader(data, train=False))
    )


def test_vertical_flip(data: Path) -> None:
    for (flipped, _), (plain, _) in zip(
        epoch_of(augmented(data, {"vflip": 1.0})), epoch_of(augmented(data, {})), strict=True
    ):
        anchors = len(plain) // 4 * 3
        assert torch.equal(flipped[:anchors], plain[:anchors].flip(2))


@pytest.mark.parametrize("text", [
    "", "rand-m9-foo", "rand-m9.5", "rand-mstdinf", "rand-tfoo", "randaug", "augmix-w0", "augmix-a0.0-w3", "v1",
    "original-m9", "ta",
])  # fmt: skip
def test_wrong_texts_are_refused(text: str) -> None:
    """timm ignores some of them without a word."""
    with pytest.raises(
        SkdError, match=r"auto_augment should be timm's rand-m9-mstd0\.5-inc1 .*torchvision's ta_wide, got"
    ):
        Augmentation(auto_augment=text)


def test_random_interpolation_is_for_beton_files(png_folder: Path, raw_beton: Path) -> None:
    spec = {"auto_augment": "rand-m9", "interpolation": "random"}
    assert len(epoch_of(augmented(raw_beton, spec))) == 2
    with pytest.raises(SkdError, match="interpolation=random is for .beton files"):
        augmented(png_folder, spec)


def test_repeats(data: Path) -> None:
    """Half of the images, twice each, with two crops, in the same step."""
    it = augmented(data, {"auto_augment": "ta_wide"}, repeats=2)
    assert it.order is not None
    assert sorted(np.bincount(it.order.anchors(1), minlength=16).tolist()) == [0] * 8 + [2] * 8
    batches = epoch_of(it, 1)
    assert_same(epoch_of(augmented(data, {"auto_augment": "ta_wide"}, repeats=2, workers=2), 1, 1), batches[1:])
    for input, target in batches:
        assert torch.equal(target[:4], target[4:8])
        same = [torch.equal(one, other) for one, other in zip(input[:4], input[4:8], strict=True)]
        assert sum(same) < 2


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erasing_on_a_gpu(raw_beton: Path, mode: str) -> None:
    """The CPU's boxes with the GPU's noise; the GPU's generator does not move."""
    change = {"random_erasing": 0.7, "erasing_mode": mode}
    plain, on_cpu = (epoch_of(augmented(raw_beton, what), 2) for what in ({}, change))
    before = torch.cuda.get_rng_state()
    on_gpu, again = (epoch_of(augmented(raw_beton, change, device="cuda", workers=2), 2) for _ in range(2))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert_same(on_gpu, again)
    assert_same(epoch_of(augmented(raw_beton, change, device="cuda"), 2, 1), on_gpu[1:])
    for (gpu, _), (cpu, _), (whole, _) in zip(on_gpu, on_cpu, plain, strict=True):
        changed = [(image.cpu() - whole).abs().amax(1) > 1e-4 for image in (gpu, cpu)]
        assert torch.equal(*changed)
