"""A detector's training goes on exactly where a signal stopped it."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from test_train_net import SMALL, iterations, start

from detection import train_net as script
from detection.stream import Batches

# Draws of every kind: sizes, flips and crops of images, proposals, dropout.
DRAWS = ["INPUT.MIN_SIZE_TRAIN", "(48,64,80)", "INPUT.RANDOM_FLIP", "horizontal", "INPUT.CROP.ENABLED", "True",
         "MODEL.ROI_HEADS.NAME", "SDDropoutROIHeads", "MODEL.TIMM.ARGS.channels", "[8, 8, 16, 16]",
         "SOLVER.IMS_PER_BATCH", "2", "SKD.EPOCHS", "0", "SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "(8,)",
         "SOLVER.WARMUP_ITERS", "4", "DATASETS.TEST", "()"]  # fmt: skip


def train(out: Path, *more: str, workers: int = 0, resume: bool = False) -> dict[str, torch.Tensor]:
    """A training in this process; returns the weights."""
    arguments = ["--config", "digits_demo", *(["--resume"] if resume else []), *SMALL, *DRAWS, *more]
    script.main([*arguments, "DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(out)])
    return weights_of(out)


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    assert iterations(out) == 12
    weights: dict[str, torch.Tensor] = torch.load(out / "model_final.pth", weights_only=True)["model"]
    return weights


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


def stop(out: Path, log: Path, *more: str, group: bool) -> None:
    """The same training in a process of its own, signalled after its first checkpoint."""
    overrides = [*SMALL, *DRAWS, "SOLVER.CHECKPOINT_PERIOD", "3", "OUTPUT_DIR", str(out)]
    process = start(log, "--config", "digits_demo", *more, *overrides)
    end = time.monotonic() + 200
    while not (out / "last_checkpoint").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    assert process.wait(200) == 128 + signal.SIGTERM, log.read_text()[-3000:]
    text = log.read_text()
    assert "Traceback" not in text
    assert "of 12; continue with --resume" in text


@pytest.mark.parametrize(
    ("sampler", "optimizer", "rate"),
    [("TrainingSampler", "SGD", "0.02"), ("RepeatFactorTrainingSampler", "ADAMW", "0.001")],
)
def test_a_training_continues_exactly_with_other_workers(
    sampler: str, optimizer: str, rate: str, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = ["DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", "0.5", "SOLVER.OPTIMIZER", optimizer,
               "SOLVER.BASE_LR", rate]  # fmt: skip
    once = train(whole, *options, "SOLVER.CHECKPOINT_PERIOD", "5")
    shutil.copytree(whole, out)
    (out / "last_checkpoint").write_text("model_0000004.pth")
    (out / "model_final.pth").unlink()
    assert_equal(train(out, *options, workers=2, resume=True), once)


def test_a_signal_stops_a_training_and_it_continues_exactly(tmp_path: Path) -> None:
    """The workers get the signal too, as from a scheduler."""
    out, log = tmp_path / "out", tmp_path / "log.txt"
    stop(out, log, group=True)
    assert len(list(out.glob("model_*.pth"))) < 5, "it did not run to its end"
    assert_equal(train(out, resume=True), train(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_stop_and_continue_exactly(tmp_path: Path) -> None:
    """Only the process that started them gets the signal."""
    out, whole, log = tmp_path / "out", tmp_path / "whole", tmp_path / "log.txt"
    stop(out, log, "--num-gpus", "2", "--dist-url", f"file://{tmp_path}/a", group=False)
    for folder, more in ((out, ["--resume"]), (whole, [])):
        process = start(log, "--config", "digits_demo", "--num-gpus", "2", "--dist-url", f"file://{tmp_path}/{folder.name}.store",
                        *more, *SMALL, *DRAWS, "OUTPUT_DIR", str(folder))  # fmt: skip
        assert process.wait(300) == 0, log.read_text()[-3000:]
    assert_equal(weights_of(out), weights_of(whole))


def test_a_drawn_seed_is_kept_and_changes_are_named(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    once = train(whole, "SEED", "-1", "SOLVER.CHECKPOINT_PERIOD", "5")
    seed = yaml.safe_load((whole / "config.yaml").read_text())["SEED"]
    assert seed >= 0
    for folder, more in ((out, ["SEED", "-1"]), (tmp_path / "changed", ["SEED", "7", "INPUT.MIN_SIZE_TRAIN", "(64,)"])):
        shutil.copytree(whole, folder)
        (folder / "last_checkpoint").write_text("model_0000004.pth")
        if folder != out:  # as if two processes had written it
            state = torch.load(folder / "model_0000004.pth", weights_only=False)
            assert state["trainer"]["processes"] == 1
            state["trainer"]["processes"] = 2
            torch.save(state, folder / "model_0000004.pth")
        again = train(folder, *more, resume=True)
        text = (folder / "log.txt").read_text()
        if folder == out:
            assert_equal(again, once)
            assert "another configuration" not in text
            assert "processes" not in text
        else:
            changes = f"INPUT.MIN_SIZE_TRAIN was [48, 64, 80], now (64,); SEED was {seed}, now 7"
            assert f"began with another configuration: {changes}" in text
            assert "2 processes began the training, 1 go on: it is not continued exactly" in text


def test_a_checkpoint_without_optimizer_is_not_continued(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "model_final.pth"
    state = torch.load(path, weights_only=False)
    del state["trainer"]["_trainer"]
    torch.save(state, path)
    with redirect_stderr(StringIO()) as printed, pytest.raises(SystemExit):
        train(tmp_path, resume=True)
    assert "model_final.pth has no optimizer, so its training can't go on" in printed.getvalue()


def first(batches: Iterable[Any], count: int) -> list[list[Any]]:
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_are_detectron2s_and_a_function_of_the_iteration(
    grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [grouped and image % 3 == 0 for image in range(50)]
    batches = Batches(TrainingSampler(50, seed=3), 4, wide)
    expected = first(batches, 60)
    assert first(batches, 60) == expected
    batches.start = 37
    assert first(batches, 23) == expected[37:]
    assert first(Batches(TrainingSampler(50, seed=4), 4, wide), 60) != expected
    stream = first(TrainingSampler(50, seed=3), 400)
    images = [{"image": image, "width": 1 + wide[image], "height": 1} for image in stream]
    theirs = [[one["image"] for one in batch] for batch in first(AspectRatioGroupedDataset(images, 4), 60)]
    assert [[image for _, image in batch] for batch in expected] == theirs
    places = [place for batch in expected for place, _ in batch]
    assert (places == list(range(240))) is not grouped
    assert len(set(places)) == 240, "no place is used twice"
    if grouped:
        assert all(len({wide[image] for _, image in batch}) == 1 for batch in expected)
        return
    halves = []
    monkeypatch.setattr("detection.stream.comm.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detection.stream.comm.get_rank", lambda rank=rank: rank)
        halves.append(first(Batches(TrainingSampler(50, seed=3), 2, wide), 60))
    assert [sorted(one + other) for one, other in zip(*halves, strict=True)] == expected, "two processes share a batch"
