"""Losses and weights that are not finite, labels and batches that can't be, in real trainings."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skd_plugins.data import write_beton
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.datasets import open_source
from skd_plugins.data.sources import Source
from skd_plugins.training import engine

from .common import TINY, Report, differing, refused, replace, state, take, tiny_data, training

Change = Callable[[Any, dict[str, Any]], object]  # of a task or what its forward gave


def _at_step_12(change: Change) -> None:
    """Changes a network or its loss at the twelfth step: the third epoch's second."""
    original = engine.build_task

    def build(*args: Any) -> Any:
        task, calls = original(*args), []
        forward = task.method.forward

        def broken(*batch: Any) -> Any:
            calls.append(1)
            result = forward(*batch)
            if len(calls) == 12:
                change(task, result)
            return result

        task.method.forward = broken
        return task

    engine.build_task = build


def _times(term: str, factor: float) -> Change:
    return lambda task, result: result.update({term: result[term] * factor})


def _infinite_gradients(task: Any, result: dict[str, Any]) -> None:
    next(task.method.model.parameters()).register_hook(lambda gradient: gradient / 0)


def _nan_weight(task: Any, result: dict[str, Any]) -> None:
    next(task.method.model.parameters()).data.fill_(float("nan"))


NAN, INFINITE = float("nan"), float("inf")
# name: the change, recipe fields, what the message has to contain. log_every=50 would otherwise look at the end only.
FINITE: dict[str, tuple[Change, dict[str, Any], tuple[str, ...]]] = {
    "loss is NaN": (_times("loss", NAN), {}, ("loss", "step 12")),
    "loss is infinite": (_times("loss", INFINITE), {}, ("loss", "step 12")),
    "a term is NaN": (_times("ce", NAN), {}, ("ce", "step 12")),
    "loss is NaN, logged later": (_times("loss", NAN), {"log_every": 50}, ("not finite", "step 12")),
    "gradients are infinite": (_infinite_gradients, {"log_every": 50}, ("not finite after step 12",)),
    "gradients are infinite in the last step of an epoch": (
        _infinite_gradients, {"batch_size": 10, "save_minutes": 0.0}, ("validation is not finite at step 12",),
    ),
    "a weight is NaN, without checkpoints in an epoch": (
        _nan_weight, {"save_minutes": 0.0}, ("not finite", "step 13"),  # the first loss that comes of it
    ),
}  # fmt: skip


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    for name in [*FINITE, *SHAPES][:count]:
        place = folder / name.replace(" ", "_").replace(",", "")
        place.mkdir()
        (_finite if name in FINITE else _shape)(report, name, place)
    return report


def _finite(report: Report, name: str, place: Path) -> None:
    change, fields, words = FINITE[name]
    recipe, data = replace(TINY, **fields), tiny_data()["beton"]
    done = training(recipe, data, place / "out", before=lambda: _at_step_12(change)).end()
    saved = state(place / "out")
    sound = all(value.isfinite().all() for value in saved["state_dict"].values()) and 0 < saved["step"] <= 12
    fine = refused(done.returncode, done.stderr, *words) and sound
    story = f"{name}: code {done.returncode}, saved step {saved['step']}, sound {sound}: {done.stderr}"
    if fine:
        again = training(recipe, data, place / "out", "--resume").end()
        whole = training(recipe, data, place / "whole").end()
        found = differing(state(place / "out"), state(place / "whole"))
        fine = again.returncode == whole.returncode == 0 and not found
        story = f"{name}, resumed: {found} {again.stderr} {whole.stderr}"
    report.add("not finite: step and term named, good checkpoint kept and continued", fine, story)


# ---- labels and batches ----------------------------------------------------------------------------------------------


def _digits(labels: list[int], classes: int) -> Source:
    part = take(open_source("digits", True), np.arange(len(labels)))
    return dataclasses.replace(part, targets=np.array(labels), classes=[f"class {n}" for n in range(classes)])


def _foreign(labels: list[int], path: Path) -> None:
    """A file as other programs write it, whose labels nothing describes."""
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


# name: (labels for training, for validation, classes; 0: a foreign file), recipe fields, words of the message or None
SHAPES: dict[str, tuple[list[int], list[int], int, dict[str, Any], tuple[str, ...] | None]] = {
    "an empty class": ([0, 1, 2] * 8, [0, 1, 2, 4], 5, {"method": "cs_kd"}, None),
    "a class with one image": ([0] * 11 + [1] * 12 + [2], [0, 1, 2], 3, {"method": "cs_kd"}, None),
    "a class with one image, pairs of the batch": (
        [0] * 11 + [1] * 12 + [2], [0, 1, 2], 3, {"method": "cs_kd", "method_args": {"pairing": "batch"}}, None,
    ),
    "one image more than batches": ([0, 1] * 6 + [1], [0, 1], 2, {}, None),
    "one image": ([0], [0], 2, {"batch_size": 1}, ("BatchNorm can't train on one",)),
    "a label as large as a file": ([0, 1, 2**40], [0, 1], 0, {}, ("label", "classes")),
    "a validation label as large as a file": ([0, 1] * 6, [0, 2**40], 0, {}, ("label", "classes")),
    "a label that validation has not": ([0, 1, 5] * 4, [0, 1], 0, {}, None),
    "a label above num_classes": ([0, 1, 5] * 4, [0, 1], 0, {"num_classes": 3}, ("classes",)),
}  # fmt: skip


def _shape(report: Report, name: str, place: Path) -> None:
    train_labels, val_labels, classes, fields, words = SHAPES[name]
    for half, labels in (("train", train_labels), ("val", val_labels)):
        path = place / f"{half}.beton"
        if classes:
            write_beton(_digits(labels, classes), path, raw_share=1.0, workers=1)
        else:
            _foreign(labels, path)
    done = training(replace(TINY, **fields), place, place / "out").end()
    if words is None:
        outcome, fine = "documented", done.returncode == 0
    else:
        outcome = "refused with the reason"
        fine = any(refused(done.returncode, done.stderr, word) for word in words)
    report.add(outcome, fine, f"{name}: {done.returncode} {done.stderr}")
