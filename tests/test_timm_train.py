"""`timm_train` on a stand-in for timm's train.py: which batches the script gets, and what it saves."""

import inspect
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.data
import timm.task
import torch
from faults.common import together
from timm.data.mixup import FastCollateMixup

from skd_plugins import SkdError
from skd_plugins.commands.scripts import timm_train
from skd_plugins.data import Augmentation, Source, TrainingOrder, make_loader, write_beton
from skd_plugins.data.beton.write import write_folder
from skd_plugins.timm_train.beton_dataset import BetonDataset, find_beton
from skd_plugins.timm_train.pairs import PairedCollateMixup, labels_of

ROOT = Path(__file__).parents[1]
STANDIN = Path(__file__).parent / "standin_train.py"
NARROW = ["--model-kwargs", "channels=(8,8,16,16)", "--color-jitter", "0"]
PER_CLASS, CLASSES = 8, 10


def colours(per_class: int, ramp: bool = False) -> Source:
    """Plain pictures that say who they are after any crop: red is the class, green the index.

    A `ramp` has a green that grows to the right, and a blue that grows downwards.
    """
    targets = np.repeat(np.arange(CLASSES), per_class)

    def load(index: int) -> np.ndarray:
        pixels = np.zeros((12, 12, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = 25 * targets[index], 20 * np.arange(12) if ramp else 3 * index
        pixels[..., 2] = 20 * np.arange(12)[:, None] if ramp else 0
        return pixels

    classes = [f"c{label}" for label in range(CLASSES)]
    return Source(description="colours", classes=classes, targets=targets, load=load, name_of=str)


def write_both(source: Source, root: Path, half: str) -> None:
    write_folder(source, root / "folder" / half)
    write_beton(source, root / "beton" / f"{half}.beton", raw_share=1.0, workers=1)


@pytest.fixture(scope="session", name="data")
def timm_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Colours as folders and `.beton`, 80 to train, 30 to validate; ramps; ``mixed`` has one half of each kind."""
    root = tmp_path_factory.mktemp("timm")
    write_both(colours(PER_CLASS), root, "train")
    write_both(colours(3), root, "val")
    for half in ("train", "val"):
        write_both(colours(PER_CLASS, ramp=True), root / "ramps", half)
    (root / "mixed").mkdir()
    (root / "mixed" / "train").symlink_to(root / "folder" / "train")
    for file in (root / "beton").glob("val.beton*"):
        (root / "mixed" / file.name).symlink_to(file)
    return {kind: root / kind for kind in ("folder", "beton", "mixed", "ramps/folder", "ramps/beton")}


@pytest.fixture(name="run")
def timm_run(data: dict[str, Path], tmp_path: Path) -> Any:
    """Runs the stand-in and returns what it recorded."""
    runs = iter(range(100))

    def _run(kind: str, method: str, method_args: str, *arguments: str) -> dict[str, Any]:
        out = tmp_path / str(next(runs))
        given = ["--data-dir", str(data[kind]), *NARROW, "--record", str(out), *arguments]
        timm_train(STANDIN, method, method_args.split(), given)
        return read(out)

    return _run


def read(record: Path, rank: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(f"{record}.{rank}", weights_only=False)
    return result


def channel(input: torch.Tensor, which: int) -> list[int]:
    """What a channel of plain pictures ``[N, 3, H, W]`` says: the class (red) or the index (green)."""
    values = (input[:, which] * 255).flatten(1)
    assert torch.allclose(values, values[:, :1], atol=0.1), "a crop of a plain picture is plain"
    return (values[:, 0].round().int() // (25, 3)[which]).tolist()


def epoch_of(record: dict[str, Any], epoch: int) -> list[tuple[list[int], torch.Tensor]]:
    """The batches of an epoch as (indices, targets)."""
    batches = [(channel(input, 1), target) for number, input, target in record["train"] if number == epoch]
    assert batches
    return batches


# ---- which batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_pairs_are_of_the_anchors_class_and_every_anchor_comes_once(run: Any, kind: str) -> None:
    record = run(kind, "cs_kd", "", "--epochs", "2", "--seed", "3")
    assert record["length"] == 10
    expected = TrainingOrder(colours(PER_CLASS).targets, segments=("anchor", "pair"), batch_size=8, seed=3)
    for epoch in (0, 1):
        batches = epoch_of(record, epoch)
        assert len(batches) == 10
        for indices, target in batches:
            assert target.shape == (16,)
            assert target[:8].tolist() == target[8:].tolist() == [index // PER_CLASS for index in indices[:8]]
            assert [index // PER_CLASS for index in indices[8:]] == target[8:].tolist()
        anchors = [index for indices, _ in batches for index in indices[:8]]
        assert sorted(anchors) == list(range(80))
        assert anchors == expected.anchors(epoch).tolist()
        assert [index for indices, _ in batches for index in indices[8:]] == expected.pairs(epoch).tolist()


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_views_are_the_same_images_augmented_again(run: Any, kind: str) -> None:
    """Plain pictures hide their crops, so these are ramps."""
    record = run(f"ramps/{kind}", "ddgsd", "")
    assert len(record["train"]) == 10
    differ = 0
    for _, input, target in record["train"]:
        assert target.shape == (16,)
        assert torch.equal(target[:8], target[8:])
        assert torch.allclose(input[:8, 0], input[8:, 0], atol=0.01), "red: of the same class"
        differ += int((input[:8, 1] - input[8:, 1]).flatten(1).abs().amax(1).gt(0.01).sum())
    assert differ > 70, "cropped elsewhere"


AUGMENTED: list[tuple[str, dict[str, Any]]] = [
    ("--aa rand-m9-mstd0.5-inc1 --color-jitter 0.4", {"auto_augment": "rand-m9-mstd0.5-inc1"}),  # as timm: no jitter
    ("--aa 3a --color-jitter 0.4", {"auto_augment": "3a", "color_jitter": 0.4}),
    ("--color-jitter 0.4 --grayscale-prob 0.3", {"color_jitter": 0.4, "grayscale": 0.3}),
    ("--reprob 0.5", {"random_erasing": 0.5}),
    ("--reprob 0.5 --remode const --recount 3", {"random_erasing": 0.5, "erasing_mode": "const", "erasing_count": 3}),
    ("--vflip 0.5", {"vflip": 0.5}),
]


@pytest.mark.parametrize(("arguments", "change"), AUGMENTED)
def test_augmentation_of_beton_files(run: Any, data: dict[str, Path], arguments: str, change: dict[str, Any]) -> None:
    """The pixels of `make_loader` with what the arguments mean; ramps show all changes."""
    record = run("ramps/beton", "cs_kd", "", *arguments.split(), "--epochs", "2")
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    path = data["ramps/beton"] / "train.beton"
    expected, plain = (
        make_loader(
            path, segments=("anchor", "pair"), batch_size=8, seed=42, workers=1,
            augmentation=Augmentation(image_size=32, scale=(0.6, 1.0), mean=zeros, std=ones, **what),
        )
        for what in (change, {})
    )  # fmt: skip
    differ = 0
    for epoch in (0, 1):
        inputs = [input for number, input, _ in record["train"] if number == epoch]
        for input, (same, _), (other, _) in zip(inputs, expected, plain, strict=True):
            assert torch.equal(input, same)
            differ += int((input - other).flatten(1).abs().amax(1).gt(0.01).sum())
    assert differ > 50


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_repeated_augmentation(run: Any, kind: str) -> None:
    record = run(kind, "cs_kd", "", "--aug-repeats", "3")
    order = TrainingOrder(colours(PER_CLASS).targets, segments=("anchor", "pair"), batch_size=8, seed=42, repeats=3)
    anchors = [index for indices, _ in epoch_of(record, 0) for index in indices[:8]]
    assert anchors == order.anchors(0).tolist()
    assert sorted(np.bincount(anchors))[-26:] == [3] * 26


def test_clean_segments_come_from_beton_files(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    record = run("beton", "cs_kd_e", "", "--aug-repeats", "1")
    assert "images are resized with an area filter" in caplog.text
    for indices, target in epoch_of(record, 0):
        assert target.shape == (24,)
        assert indices[:8] == indices[16:], "the clean third is of the anchors"
        assert [index // PER_CLASS for index in indices[8:16]] == target[:8].tolist()


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_couples(run: Any, kind: str) -> None:
    record = run(kind, "sd_dropout", "base=cs_kd base_args.pairing=batch")
    batches = epoch_of(record, 0)
    for _, target in batches:
        assert target.shape == (8,)
        assert torch.bincount(target)[target].min() >= 2
    assert sorted(index for indices, _ in batches for index in indices) == list(range(80))


def test_methods_of_anchors_alone_keep_timms_loader_and_gradients(
    run: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropy injected is bit for bit the script without us."""
    out = tmp_path / "plain"
    arguments = ["--data-dir", str(data["folder"]), *NARROW, "--record", str(out), "--smoothing", "0.1"]
    monkeypatch.setattr(sys, "argv", [str(STANDIN), *arguments])
    runpy.run_path(str(STANDIN), run_name="__main__")
    plain, injected = read(out), run("folder", "ce", "", "--smoothing", "0.1")
    assert len(plain["loss"]) == 10
    assert injected["loss"] == plain["loss"]
    assert injected["top1"] == plain["top1"]
    bank = run("folder", "cs_kd", "pairing=bank", "--smoothing", "0.1")
    assert all(torch.equal(a[1], b[1]) for a, b in zip(bank["train"], plain["train"], strict=True))
    assert bank["loss"][0] == plain["loss"][0], "the first visit of a class adds no term"
    assert bank["loss"][-1] != plain["loss"][-1]


@pytest.mark.parametrize(
    ("kind", "mixing"),
    [
        ("folder", "--mixup 0.8"), ("folder", "--cutmix 1.0"), ("folder", "--mixup 1.0 --mixup-mode elem"),
        ("folder", "--cutmix 1.0 --no-prefetcher"), ("beton", "--mixup 0.8"), ("beton", "--cutmix 1.0"),
        ("beton", "--mixup 1.0 --mixup-mode elem --no-prefetcher"),
    ],
)  # fmt: skip
def test_anchors_and_pairs_are_mixed_alike(run: Any, kind: str, mixing: str) -> None:
    """Red is the class, so mixed with the same permutation, coefficient and box, both halves have the same red."""
    record = run(kind, "cs_kd", "", *mixing.split(), "--smoothing", "0.1")
    mixed = 0
    for _, input, target in record["train"]:
        assert target.shape == (16, CLASSES)
        assert torch.allclose(target.sum(1), torch.ones(16))
        assert torch.equal(target[:8], target[8:])
        assert torch.allclose(input[:8, 0], input[8:, 0], atol=1e-6)
        mixed += int((target.max(dim=1).values < 0.85).sum())
    assert mixed > 20
    # Where an image and its partner are of one class, nothing shows; elsewhere each batch has its own coefficient.
    assert len({tuple(target[0].tolist()) for _, _, target in record["train"]}) > 7


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_mixup_ends_where_the_script_says(run: Any, kind: str) -> None:
    record = run(kind, "cs_kd", "", "--mixup", "1.0", "--mixup-off-epoch", "1", "--epochs", "2")
    sharp = [bool((target.max(dim=1).values == 1).all()) for _, _, target in record["train"]]
    assert len(sharp) == 20
    assert not any(sharp[:10])
    if kind == "beton":  # timm's worker processes keep their copy of the switch
        assert all(sharp[10:])


def test_collate_mixup_is_timms_on_each_segment() -> None:
    settings: dict[str, Any] = dict(mixup_alpha=0.5, label_smoothing=0.1, num_classes=3)
    draw = np.random.default_rng(0)
    batch = [(draw.integers(0, 256, (3, 4, 4), dtype=np.uint8), label) for label in (0, 1, 2, 1, 0, 1, 2, 1)]
    parts = []
    for part in (batch[:4], batch[4:]):
        np.random.seed(5)
        parts.append(FastCollateMixup(**settings)(part))
    np.random.seed(5)
    input, target = PairedCollateMixup(FastCollateMixup(**settings), 2)(batch)
    assert torch.equal(input, torch.cat([part[0] for part in parts]))
    assert torch.equal(target, torch.cat([part[1] for part in parts]))


def test_labels_of_timms_data_sets() -> None:
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=[("a", 1), ("b", 0)]))).tolist() == [1, 0]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=["a"], targets=np.array([4])))).tolist() == [4]
    assert labels_of(SimpleNamespace(targets=[2, 3], target_transform=lambda label: label - 2)).tolist() == [0, 1]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(iter_targets=lambda: iter([5, 6])))).tolist() == [5, 6]
    with pytest.raises(SkdError, match="SimpleNamespace does not list one class index a sample"):
        labels_of(SimpleNamespace())
    with pytest.raises(SkdError, match="a stream"):
        labels_of(type("Stream", (torch.utils.data.IterableDataset,), {"__iter__": lambda self: iter([])})())


# ---- training, checkpoints, resume -----------------------------------------------------------------------------------


def test_checkpoints_have_the_plain_networks_keys(run: Any, tmp_path: Path) -> None:
    run("beton", "sd_dropout", "base=cs_kd base_args.pairing=bank", "--model-ema", "--output", str(tmp_path / "out"))
    saved = torch.load(tmp_path / "out" / "last.pth.tar", weights_only=False)
    plain = timm.create_model("resnet10t", num_classes=CLASSES, channels=(8, 8, 16, 16))
    plain.load_state_dict(saved["state_dict"])
    plain.load_state_dict(saved["state_dict_ema"])
    assert {key.rpartition(".")[2] for key in saved["task_state"]} == {"logits", "filled"}
    assert saved["args"].epochs == 1, "the script's own record is there too"


@pytest.mark.parametrize(("kind", "method_args"), [("beton", "pairing=bank"), ("folder", "")])
def test_resume_continues_the_order(run: Any, tmp_path: Path, kind: str, method_args: str) -> None:
    arguments = (kind, "cs_kd", method_args, "--model-ema", "--output")
    run(*arguments, str(tmp_path / "part"))
    last = str(tmp_path / "part" / "last.pth.tar")
    resumed = run(*arguments, str(tmp_path / "resumed"), "--epochs", "2", "--resume", last)
    segments = ("anchor",) if method_args else ("anchor", "pair")
    order = TrainingOrder(colours(PER_CLASS).targets, segments=segments, batch_size=8, seed=42)
    assert {epoch for epoch, _, _ in resumed["train"]} == {1}
    assert [index for indices, _ in epoch_of(resumed, 1) for index in indices[:8]] == order.anchors(1).tolist()
    if kind == "beton":  # whose crops depend on the seed and the epoch only, so that everything is bit-equal
        whole = run(*arguments, str(tmp_path / "whole"), "--epochs", "2")
        assert all(torch.equal(a[1], b[1]) for a, b in zip(whole["train"][10:], resumed["train"], strict=True))
        a, b = (torch.load(tmp_path / name / "last.pth.tar", weights_only=False) for name in ("whole", "resumed"))
        for part in ("state_dict", "state_dict_ema", "task_state"):
            assert a[part].keys() == b[part].keys()
            assert all(torch.equal(a[part][key], b[part][key]) for key in a[part]), part


def test_compiled_steps_are_the_eager_ones(run: Any) -> None:
    eager = run("beton", "cs_kd", "")
    compiled = run("beton", "cs_kd", "", "--torchcompile", "eager")
    assert eager["loss"] == pytest.approx(compiled["loss"], rel=1e-5)


def test_two_processes(data: dict[str, Path], tmp_path: Path) -> None:
    """Folders through timm's loaders, the validation set from a `.beton`; 30 images in shards of 15."""
    given = ["--data-dir", str(data["mixed"]), *NARROW, "-b", "4", "--record", str(tmp_path / "record"), "--model-ema"]
    together(lambda: timm_train(STANDIN, "sd_dropout", ["base=cs_kd"], given), tmp_path)
    records = [read(tmp_path / "record", rank) for rank in (0, 1)]
    order = TrainingOrder(colours(PER_CLASS).targets, segments=("anchor", "pair"), batch_size=8, seed=42)
    shards = [[index for indices, _ in epoch_of(record, 0) for index in indices[:4]] for record in records]
    assert len(shards[0]) == len(shards[1]) == 40
    assert sorted(shards[0] + shards[1]) == list(range(80)), "disjoint, and together every anchor once"
    steps = zip(*(np.split(np.array(shard), 10) for shard in shards), strict=True)
    assert np.concatenate([part for step in steps for part in step]).tolist() == order.anchors(0).tolist()
    for record in records:
        assert all(target.shape == (8,) and torch.equal(target[:4], target[4:]) for _, _, target in record["train"])
        assert len(record["eval"]) == 2 * 2, "as many batches on each process, plain and averaged weights"
    assert records[0]["top1"] == records[1]["top1"]


def test_evaluation_shards_are_padded_to_equal_length(data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """30 images for four processes: 8 each, the last two of which are the first two images again."""
    monkeypatch.setattr("skd_plugins.timm_train.beton_dataset.processes", lambda options: (options["rank"], 4))
    options = {
        name: parameter.default for name, parameter in inspect.signature(timm.data.create_loader).parameters.items()
    }
    shards = []
    for rank in range(4):
        dataset = BetonDataset(data["beton"] / "val.beton", seed=0)
        given = {"input_size": (3, 16, 16), "batch_size": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3, "rank": rank}
        loader = dataset.loader({**options, **given, "device": "cpu"}, segments=("anchor",), couples=False)
        assert len(loader) == 3
        shards.append([index for input, _ in loader for index in channel(input, 1)])
        if hasattr(loader.sampler, "num_valid_samples"):  # timm 1.0.30 and later count without the padding
            assert loader.sampler.num_valid_samples == (8 if rank < 2 else 7)
    assert [len(shard) for shard in shards] == [8] * 4
    assert sorted(index for shard in shards for index in shard) == sorted([*range(30), 0, 1])


def test_the_criterion_is_the_scripts(tmp_path: Path) -> None:
    """By position, as in timm 1.0.27, and made from arguments, as from timm 1.0.30."""
    script = tmp_path / "script.py"
    text = """
import torch, timm
from timm.task import ClassificationTask
from timm.loss import LabelSmoothingCrossEntropy
model = timm.create_model('resnet10t', num_classes=3, channels=(8, 8, 8, 8))
criterion, device = LabelSmoothingCrossEntropy(0.3), torch.device('cpu')
task = ClassificationTask(model, criterion, device=device, dtype=torch.float64)
assert task.method.name == 'ce' and task.method.criterion.smoothing == 0.3
assert task.method.model is model and task.dtype == torch.float64
"""
    if "criterion_kwargs" in inspect.signature(timm.task.ClassificationTask).parameters:
        text += "task = ClassificationTask(model=model, criterion_kwargs=dict(smoothing=0.2))\n"
        text += "assert task.method.criterion.smoothing == 0.2"
    script.write_text(text)
    timm_train(script, "ce", [], [])


def test_which_file_a_split_is(data: dict[str, Path]) -> None:
    beton, folder, mixed = data["beton"], data["folder"], data["mixed"]
    assert find_beton(beton, "train") == find_beton(beton, "training") == beton / "train.beton"
    assert find_beton(beton, "validation") == find_beton(str(beton), "val") == beton / "val.beton"
    assert find_beton(beton / "train.beton", "train") == beton / "train.beton"
    assert find_beton(beton / "train.beton", "validation") == beton / "val.beton"
    assert find_beton(folder, "train") is None
    assert find_beton(mixed, "train") is None
    assert find_beton(mixed, "validation") == mixed / "val.beton"
