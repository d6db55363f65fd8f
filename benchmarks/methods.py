"""Every method and composition on the embedded digits: the result of one seed, and the cost of a step.

Trains the digits recipe (20 labels a class, narrow ResNet-10-T, 40 epochs) with each method and evaluates the last
checkpoint on the 797 validation digits. Then it times steps of all methods in turn in one process, so that other load
on the machine affects all of them alike. One seed ranks nothing: with 797 images the standard error of a 6 % error is
0.8 points. The table shows that everything runs, learns and exports, and what it costs.

Run: make methods-demo, or python benchmarks/methods.py [--out runs/methods] [--epochs 40] [--rounds 20] [--json FILE]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rounds import interleaved

from skd_plugins import Recipe, replace
from skd_plugins.commands.study import train_and_measure
from skd_plugins.data.find import embedded
from skd_plugins.training.parts import build_optimizer, build_task
from skd_plugins.training.project import recipe_of

TEACHER = "cs_kd"  # the run whose network teaches, as in CS-KD's Table 4
SDD = {"weight": 0.1}  # the authors' weight on another method
# name: method, its arguments, changes to the recipe; the teacher is filled in
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ce": ("ce", {}, {}),
    "label_smoothing": ("label_smoothing", {}, {}),
    "max_entropy": ("max_entropy", {}, {}),
    "virtual_softmax": ("virtual_softmax", {}, {}),
    "adacos": ("adacos", {}, {"model_args": {"classifier": "cosine"}}),
    "dropout": ("dropout", {}, {}),
    "dropout, 2 samples": ("dropout", {"samples": 2}, {}),
    "cs_kd": ("cs_kd", {}, {}),
    "cs_kd, batch": ("cs_kd", {"pairing": "batch"}, {}),
    "cs_kd, bank": ("cs_kd", {"pairing": "bank"}, {}),
    "cs_kd_e": ("cs_kd_e", {}, {}),
    "ddgsd": ("ddgsd", {}, {}),
    "byot": ("byot", {}, {}),
    "dml": ("dml", {}, {}),
    "tf_kd": ("tf_kd", {}, {}),
    "zipf_ls": ("zipf_ls", {}, {}),
    "ols": ("ols", {}, {}),
    "uskd": ("uskd", {}, {}),
    "bake": ("bake", {}, {}),
    "bake, batch": ("bake", {"pairing": "batch"}, {}),
    "dks": ("dks", {}, {}),
    "sd_dropout": ("sd_dropout", {}, {}),
    "sd_dropout, 4 samples": ("sd_dropout", {"samples": 4}, {}),
    "sd_dropout, layer3": ("sd_dropout", {"position": "layer3"}, {}),
    "sd_dropout, mlp": ("sd_dropout", {}, {"model_args": {"classifier": "mlp"}}),
    "cs_kd + sd_dropout": ("sd_dropout", {"base": "cs_kd", **SDD}, {}),
    "ddgsd + sd_dropout": ("sd_dropout", {"base": "ddgsd", **SDD}, {}),
    "byot + sd_dropout": ("sd_dropout", {"base": "byot", **SDD}, {}),
    "dml + sd_dropout": ("sd_dropout", {"base": "dml", **SDD}, {}),
    "label_smoothing + sd_dropout": ("sd_dropout", {"base": "label_smoothing", **SDD}, {}),
    "kd": ("kd", {"teacher": ""}, {}),
    "cs_kd + kd": ("kd", {"teacher": "", "base": "cs_kd"}, {}),
    "ce, mixup": ("ce", {}, {"mixup": 0.2}),
    "cs_kd, mixup": ("cs_kd", {}, {"mixup": 0.2}),
    "sd_dropout, cutmix": ("sd_dropout", {}, {"cutmix": 1.0}),
}


def recipe_for(row: str, epochs: int, teacher: Path) -> Recipe:
    """The digits recipe with a row's changes."""
    recipe = recipe_of("digits_ce")
    method, arguments, changes = ROWS[row]
    if "teacher" in arguments:
        arguments = arguments | {"teacher": str(teacher)}
    model_args = recipe.model_args | changes.get("model_args", {})
    name = f"resnet10t_digits.{''.join(letter if letter.isalnum() else '_' for letter in row)}"
    settings: dict[str, Any] = dict(epochs=epochs, validate_every=epochs, trackers=(), workers=1)
    return replace(
        recipe, name=name, method=method, method_args=arguments,
        **{**settings, **changes, "model_args": model_args},
    )  # fmt: skip


def step_times(recipes: Mapping[str, Recipe], classes: int, rounds: int) -> dict[str, dict[str, float]]:
    """The cost of each recipe's step (forward, backward, optimizer) over the first's: median of interleaved rounds."""
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], None]] = {}
    costs: dict[str, dict[str, float]] = {}
    for row, recipe in recipes.items():
        if recipe.mixup or recipe.cutmix:  # they change the loader's work, not the step
            continue
        task = build_task(recipe, classes, torch.device("cpu")).train()
        optimizer = build_optimizer(recipe, task.method)
        segments, method = len(task.method.segments), task.method
        method.begin_epoch(0, 1)
        input = torch.randn(segments * recipe.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        target = torch.arange(recipe.batch_size).remainder(classes).repeat(segments)

        def step(task: Any = task, optimizer: Any = optimizer, input: Any = input, target: Any = target) -> None:
            task(input, target)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[row] = step
        costs[row] = {
            "counted": method.step_cost,
            "extra": sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in method.model.parameters()),
        }
    seconds = interleaved(steps, rounds, warmup=2)  # the first rounds allocate
    for row in steps:
        over_ce = [own / first for own, first in zip(seconds[row], seconds[next(iter(steps))], strict=True)]
        costs[row]["measured"] = statistics.median(over_ce)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    data = embedded("digits", options.out / "data")
    teacher = options.out / recipe_for(TEACHER, 1, Path()).name / "seed0"
    recipes = {row: recipe_for(row, options.epochs, teacher) for row in ROWS}
    train_and_measure([recipes[TEACHER]], data, None, options.out)  # kd needs it
    measured = train_and_measure(list(recipes.values()), data, None, options.out)
    times = step_times(recipes, 10, options.rounds)

    table = Table(title="797 digits, seed 0; step cost over cross-entropy's", title_justify="left", box=None)
    table.add_column("method")
    for column in ("error %", "ECE %", "R@1 %", "step, measured", "step, counted", "extra parameters"):
        table.add_column(column, justify="right")
    metrics = {row: numbers for row, (_, numbers) in zip(recipes, measured, strict=True)}
    for row, values in metrics.items():
        error, ece, recall = 100 * values["error"], 100 * values["ece"], 100 * (1 - values["recall_error"])
        cost = times.get(row)
        cells = [f"{cost['measured']:.2f}", f"{cost['counted']:.2f}", f"{cost['extra']:,}"] if cost else ["", "", ""]
        table.add_row(row, f"{error:.1f}", f"{ece:.1f}", f"{recall:.1f}", *cells)
    Console(width=120).print(table)
    print(f"methods-demo: {time.monotonic() - start:.0f} s on {os.cpu_count()} cores, runs in {options.out}")
    if options.json:
        options.json.write_text(json.dumps({"metrics": metrics, "steps": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
