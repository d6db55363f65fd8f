"""Losses and weights that are not finite, labels and batches that can't be, in real trainings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from skd_plugins.data import write_beton
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.datasets import open_source
from skd_plugins.data.sources import Source

from .common import TINY, Report, differing, one_line, python, replace, script, take, tiny_data

# What becomes of the network or its loss at the twelfth step: the third epoch's second.
AT_STEP = """
import torch, skd_plugins.training.engine as engine
calls = []
original = engine.build_task
def build(recipe, num_classes, device):
    task = original(recipe, num_classes, device)
    forward = task.method.forward
    def broken(input, target):
        calls.append(1)
        result = forward(input, target)
        if len(calls) == 12: result = change(task, result)
        return result
    task.method.forward = broken
    return task
engine.build_task = build
def change(task, result):
    {change}
    return result
"""
INFINITE = "next(task.method.model.parameters()).register_hook(lambda gradient: gradient / 0)"
# name: the change, recipe fields, what the message has to contain. log_every=50 would otherwise look at the end only.
FINITE = {
    "loss is NaN": ("result['loss'] = result['loss'] * float('nan')", {}, ("loss", "step 12")),
    "loss is infinite": ("result['loss'] = result['loss'] * float('inf')", {}, ("loss", "step 12")),
    "a term is NaN": ("result['ce'] = result['ce'] * float('nan')", {}, ("ce", "step 12")),
    "loss is NaN, logged later": (
        "result['loss'] = result['loss'] * float('nan')", {"log_every": 50}, ("not finite", "step 12"),
    ),
    "gradients are infinite": (INFINITE, {"log_every": 50}, ("not finite after step 12",)),
    "gradients are infinite in the last step of an epoch": (
        INFINITE, {"batch_size": 10, "save_minutes": 0.0}, ("not finite after step 12",),
    ),
    "a weight is NaN, without checkpoints in an epoch": (
        "next(task.method.model.parameters()).data.fill_(float('nan'))", {"save_minutes": 0.0},
        ("not finite", "step 13"),  # the first loss that comes of it
    ),
}  # fmt: skip


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report, data = Report(), tiny_data(folder)
    cases = [lambda name=name: _finite(report, name, data["beton"], folder) for name in FINITE]
    cases += [lambda name=name: _shape(report, name, folder) for name in SHAPES]
    for case in cases[:count]:
        case()
    return report


def _finite(report: Report, name: str, data: Path, folder: Path) -> None:
    change, fields, words = FINITE[name]
    place = folder / name.replace(" ", "_").replace(",", "")
    place.mkdir()
    recipe = replace(TINY, **fields)
    file = script(recipe, place / "recipe.py", AT_STEP.format(change=change))
    done = python(file, "--data", data, "--out", place)
    saved = place / "tiny.fault" / "seed0" / "last.pt"
    state = torch.load(saved, weights_only=True)
    sound = all(value.isfinite().all() for value in state["state_dict"].values()) and 0 < state["step"] <= 12
    fine = one_line(done) and all(word in done.stderr for word in words) and sound
    story = f"{name}: code {done.returncode}, saved step {state['step']}, sound {sound}: {done.stderr}"
    if fine:
        again = python(script(recipe, place / "again.py"), "--data", data, "--out", place, "--resume")
        whole = python(file := place / "again.py", "--data", data, "--out", place / "whole")
        found = differing(
            torch.load(saved, weights_only=True),
            torch.load(place / "whole" / "tiny.fault" / "seed0" / "last.pt", weights_only=True),
        )
        fine = again.returncode == whole.returncode == 0 and not found
        story = f"{name}, resumed: {found} {again.stderr} {whole.stderr}"
    report.add("not finite: step and term named, good checkpoint kept and continued", fine, story)


# ---- labels and batches ----------------------------------------------------------------------------------------------


def _digits(labels: list[int], classes: int) -> Source:
    part = take(open_source("digits", True), np.arange(len(labels)))
    return dataclasses.replace(part, targets=np.array(labels), classes=[f"class {n}" for n in range(classes)])


def _foreign(labels: list[int], path: Path) -> None:
    """A file as other programs write it, whose labels nothing describes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_beton(_digits([0] * len(labels), 1), path, raw_share=1.0, workers=1)
    for ending in (".json", ".crc32"):
        path.with_name(path.name + ending).unlink()
    data = np.fromfile(path, np.uint8)
    first = 24 + 2 * 1041  # header and two fields
    row = 24
    assert len(BetonFile(path)) == len(labels)
    for index, label in enumerate(labels):
        at = first + index * row
        entry = data[at : at + row]
        places = [n for n in range(0, row, 8) if not entry[n : n + 8].any()]
        data[at + places[-1] : at + places[-1] + 8] = np.array([label], "<i8").view(np.uint8)
    data.tofile(path)


# name: (labels for training, for validation, classes), recipe fields, exit code, words of the message
SHAPES: dict[str, tuple[list[int], list[int], int, dict[str, object], int, tuple[str, ...]]] = {
    "an empty class": ([0, 1, 2] * 8, [0, 1, 2, 4], 5, {"method": "cs_kd"}, 0, ()),
    "a class with one image": ([0] * 11 + [1] * 12 + [2], [0, 1, 2], 3, {"method": "cs_kd"}, 0, ()),
    "a class with one image, pairs of the batch": (
        [0] * 11 + [1] * 12 + [2], [0, 1, 2], 3, {"method": "cs_kd", "method_args": {"pairing": "batch"}}, 0,
        (),
    ),
    "one image more than batches": ([0, 1] * 6 + [1], [0, 1], 2, {}, 0, ()),
    "one image": ([0], [0], 2, {"batch_size": 1}, 2, ("BatchNorm can't train on one",)),
    "a label as large as a file": ([0, 1, 2**40], [0, 1], 0, {}, 2, ("label|classes",)),
    "a validation label as large as a file": ([0, 1] * 6, [0, 2**40], 0, {}, 2, ("label|classes",)),
    "a label that validation has not": ([0, 1, 5] * 4, [0, 1], 0, {}, 2, ("classes",)),
    "a label above num_classes": ([0, 1, 5] * 4, [0, 1], 0, {"num_classes": 3}, 2, ("classes",)),
}  # fmt: skip


def _shape(report: Report, name: str, folder: Path) -> None:
    train_labels, val_labels, classes, fields, code, words = SHAPES[name]
    place = folder / name.replace(" ", "_").replace(",", "")
    for half, labels in (("train", train_labels), ("val", val_labels)):
        path = place / f"{half}.beton"
        if classes:
            write_beton(_digits(labels, classes), path, raw_share=1.0, workers=1)
        else:
            _foreign(labels, path)
    done = python(script(replace(TINY, **fields), place / "recipe.py"), "--data", place, "--out", place)
    fine = done.returncode == code and (code == 0 or one_line(done))
    fine = fine and all(any(word in done.stderr for word in alternatives.split("|")) for alternatives in words)
    report.add(
        "documented" if code == 0 else "refused with the reason", fine, f"{name}: {done.returncode} {done.stderr}"
    )
