"""Several processes and micro-batches do what one does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_RECIPE
from faults.common import launch, ranked, refused, tiny_data, training
from tiny_runs import GROUP_NORM, RUN, Fit, checkpoint, lines, tiny_fit  # noqa: F401  a fixture

from skd_plugins import replace


def test_micro_batches_equal_the_whole_batch(fit: Fit) -> None:
    """Without BatchNorm, whose statistics are a micro-batch's own."""
    one, three = (
        checkpoint(fit(f"{count}", model_args=GROUP_NORM, epochs=1, grad_accumulation=count)) for count in (1, 3)
    )
    assert one["step"] == three["step"] == 5
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(three["state_dict"][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_processes_with_other_labels_are_refused(tmp_path: Path) -> None:
    """As on two machines, of which one has another copy of the data."""
    for rank in ("0", "1"):
        shutil.copytree(tiny_data()["folder"], tmp_path / rank)
    first, second, *_ = sorted((tmp_path / "1" / "train").iterdir())
    next(first.iterdir()).rename(second / "moved.png")
    logs = [tmp_path / f"{rank}.txt" for rank in range(2)]
    pair = [
        training(TINY_RECIPE, tmp_path / str(rank), tmp_path / "out", log=logs[rank], **own)
        for rank, own in enumerate(ranked(2))
    ]
    for done in [one.end(120) for one in pair]:
        assert refused(done.returncode, done.stderr, "train has other classes or labels on another machine")
    assert not list(tmp_path.glob("out/**/*.pt"))


def test_two_processes_train_and_evaluate_as_one(fit: Fit, tmp_path: Path) -> None:
    """13 validation images, two of the second process's damaged: every image counts once, also among those left out."""
    folder = shutil.copytree(tiny_data()["folder"], tmp_path / "data")
    for broken in sorted((folder / "val").rglob("*.png"))[-2:]:
        broken.write_bytes(b"no image")
    changes = {"model_args": GROUP_NORM, "method": "cs_kd", "epochs": 1, "skip_broken": True}
    recipe = replace(TINY_RECIPE, **changes, trackers=("tensorboard",))
    first, second = (one.end() for one in launch(2, recipe, folder, tmp_path / "two"))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    two = tmp_path / "two" / RUN
    assert "left out 0 training and 2 validation images" in first.stderr
    assert json.loads((two / "recipe.json").read_text())["environment"]["processes"] == 2
    assert list(two.rglob("events.out.tfevents.*")), "TensorBoard's file"
    one = fit("one", on=folder, **changes)
    a, b = checkpoint(two), checkpoint(one)
    assert a["step"] == b["step"] == 5
    for key, value in b["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][key], value, rtol=1e-3, atol=1e-5, msg=key)
    first, second = lines(two, "validate")[-1], lines(one, "validate")[-1]
    assert first["count"] == second["count"] == 11
    assert first["top1"] == second["top1"]
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-4)
    (left_out,) = lines(two, "skipped")
    assert (left_out["train"], left_out["val"]) == (0, 2)
