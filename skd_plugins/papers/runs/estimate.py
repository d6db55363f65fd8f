"""How long runs will take, from a step measured on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...common.errors import SkdError
from ...common.files import write_json
from ...data.datasets import KNOWN
from ...data.find import find_split
from ...data.loader import open_data
from ...methods.table import method_rows
from ...recipe import Recipe, replace
from ...training.build import build_optimizer, build_task
from .jobs import Job


@dataclass(frozen=True)
class Estimate:
    """Device hours of some jobs.

    Attributes:
        hours: of one device; detectors are not counted.
        basis: what they are computed from, a sentence.
    """

    hours: float
    basis: str


class Estimator:
    """Measures a step of cross-entropy of each network once, and counts the passes of the other methods.

    Args:
        cache_file: where measured steps are kept.
    """

    def __init__(self, cache_file: Path) -> None:
        self.file = cache_file
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device_name = torch.cuda.get_device_name() if self.device.type == "cuda" else "one thread of this CPU"
        self.steps: dict[str, float] = json.loads(cache_file.read_text()) if cache_file.is_file() else {}

    def estimate(self, jobs: Iterable[Job]) -> Estimate:
        """Of all the jobs that are given, from their beginning."""
        hours = sum(self._seconds(job) for job in jobs if not job.config) / 3600
        where = "GPU" if self.device.type == "cuda" else "CPU"
        basis = (
            f"{where} hours left: a cross-entropy step of each network, measured on {self.device_name} with random "
            "images in memory, times the method's passes; loading, validation, evaluation and detectors are not in it"
        )
        if where == "CPU":
            basis += ". There is no GPU here; run this on one for its hours"
        return Estimate(hours, basis)

    def _seconds(self, job: Job) -> float:
        anchors = job.recipe.epochs * _training_images(job)
        return anchors * self.seconds_an_image(job.recipe) * cost_of(job.recipe.method, job.recipe.method_args)

    def seconds_an_image(self, recipe: Recipe) -> float:
        """Of a training step of cross-entropy."""
        key = json.dumps([self.device_name, recipe.model, recipe.model_args, recipe.image_size, recipe.precision,
                          recipe.batch_size])  # fmt: skip
        if key not in self.steps:
            self.steps[key] = _measure(recipe, self.device)
            write_json(self.file, self.steps)
        return self.steps[key]


@cache
def _costs() -> dict[str, float]:
    return {row.name: row.cost for row in method_rows()}


def cost_of(method: str, arguments: dict[str, object]) -> float:
    """A step's passes through the network over cross-entropy's; a teacher counts like the student."""
    base = arguments.get("base")
    if isinstance(base, str):
        own = _costs()[base]
        return own + 1 / 3 if method == "kd" else own
    return _costs()[method]


def _measure(recipe: Recipe, device: torch.device) -> float:
    """Seconds an image; on a CPU of a few images, so that a plan takes seconds and not minutes."""
    count = recipe.batch_size if device.type == "cuda" else min(recipe.batch_size, 16 if recipe.image_size <= 64 else 2)
    plain = {name: value for name, value in recipe.model_args.items() if name != "classifier"}
    recipe = replace(recipe, method="ce", method_args={}, model_args=plain, initial_weights=None)
    task = build_task(recipe, 100, device)
    optimizer = build_optimizer(recipe, task.get_trainable_module())
    shape = (count, 3, recipe.image_size, recipe.image_size)
    input, target = torch.randn(shape, device=device), torch.arange(count, device=device) % 100
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    if recipe.channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    task.train()
    seconds = []
    for _ in range(2 if device.type == "cpu" else 6):  # the first ones are slower
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype is not None and device.type == "cuda"):
            loss = task(input, target)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds) / count


def _training_images(job: Job) -> int:
    return _count(job.data) if job.present else KNOWN[job.recipe.dataset][0]


@cache
def _count(folder: Path) -> int:
    try:
        return len(open_data(find_split(folder, True)))
    except SkdError:
        return 0
