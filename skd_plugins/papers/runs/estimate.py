"""How long runs will take, from a step measured on this machine."""

import json
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from ...common.files import write_json
from ...data.datasets import KNOWN
from ...data.find import find_split
from ...data.loader import open_data
from ...methods.overview import method_rows
from ...recipe import Recipe, replace
from ...training.parts import build_optimizer, build_task
from .jobs import Job
from .store import read_json


class Estimator:
    """Measures a cross-entropy step of each network once, keeps it in a file and multiplies it by a method's passes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device_name = torch.cuda.get_device_name() if self.device.type == "cuda" else "one thread of this CPU"
        self.steps: dict[str, float] = read_json(file) or {}

    @property
    def basis(self) -> str:
        """What the hours are and what they leave out, for people."""
        gpu = self.device.type == "cuda"
        return (
            f"{'GPU' if gpu else 'CPU'} hours left: a cross-entropy step of each network, measured on "
            f"{self.device_name} with random images in memory, times the method's passes; loading, validation, "
            "evaluation and detectors are not in it"
            f"{'' if gpu else '. There is no GPU here; run this on one for its hours'}"
        )

    def hours(self, jobs: Iterable[Job]) -> float:
        """Hours that one device needs for these jobs from the start, without detectors."""
        seconds = 0.0
        for job in jobs:
            if not job.config:
                recipe = job.recipe
                images = _count(job.data) if job.present else KNOWN[recipe.dataset][0]
                passes = cost_of(recipe.method, recipe.method_args)
                seconds += recipe.epochs * images * self._seconds_per_image(recipe) * passes
        return seconds / 3600

    def _seconds_per_image(self, recipe: Recipe) -> float:
        what = recipe.model, recipe.model_args, recipe.image_size, recipe.precision, recipe.batch_size
        key = json.dumps([self.device_name, *what])
        if key not in self.steps:
            self.steps[key] = _measure(recipe, self.device)
            write_json(self.file, self.steps)
        return self.steps[key]


_rows = cache(method_rows)


def cost_of(method: str, arguments: dict[str, object]) -> float:
    """Passes of a step through the network, relative to cross-entropy's."""
    base = arguments.get("base")
    cost = next(row.cost for row in _rows() if row.name == (base or method))
    return cost + 1 / 3 if base and method == "kd" else cost  # the teacher's forward pass


def _measure(recipe: Recipe, device: torch.device) -> float:
    """Seconds per image; on a CPU with a few images, so that a plan takes seconds and not minutes."""
    gpu = device.type == "cuda"
    count = recipe.batch_size if gpu else min(recipe.batch_size, 16 if recipe.image_size <= 64 else 2)
    plain = {name: value for name, value in recipe.model_args.items() if name != "classifier"}
    recipe = replace(recipe, method="ce", method_args={}, model_args=plain, initial_weights=None)
    task = build_task(recipe, 100, device)
    optimizer = build_optimizer(recipe, task.method)
    input = torch.randn(count, 3, recipe.image_size, recipe.image_size, device=device)
    target = torch.arange(count, device=device) % 100
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    if recipe.channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    task.train()
    seconds = []
    for _ in range(6 if gpu else 2):  # the first ones are slower
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype is not None and gpu):
            loss = task(input, target)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds) / count


@cache
def _count(folder: Path) -> int:
    return len(open_data(find_split(folder, True)))
