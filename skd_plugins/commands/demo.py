"""``skd demo``: the main job on the embedded digits, from data to exported weights."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common.errors import SkdError
from ..common.meter import clock
from ..training.project import project, train_recipe

RECIPES = ("digits_ce", "digits_cskd", "digits_sddropout")
_COLUMNS = (("top1 error", "top1"), ("ECE", "ece"), ("R@1", "recall_at_1"))


def run_demo(out: Path, seeds: int, recipes: Sequence[str] = RECIPES, overrides: Sequence[str] = ()) -> None:
    """Writes the digits' `.beton`, trains each recipe with each seed, evaluates, exports, and prints one table.

    Runs that are complete are not repeated.

    Args:
        out: runs, data, reports and weights go there.
        seeds: number of seeds.
        recipes: names of recipe files.
        overrides: further ``field=value`` for every run.

    Raises:
        SkdError: the recipes are not there, or a run failed.
    """
    if seeds < 1:
        raise SkdError(f"--seeds should be at least 1, got {seeds}")
    from ..data.find import embedded_digits
    from ..evaluation import compare
    from ..evaluation.command import evaluate_weights
    from ..weights import export_weights

    data = embedded_digits(out / "data")
    print(
        f"data: {data}/train.beton, val.beton (scikit-learn's digits, 20 labels a class, 797 to validate)", flush=True
    )
    jobs = [(project() / "recipes" / f"{name}.py", seed) for seed in range(seeds) for name in recipes]
    # One thread a run and one run a core: two runs of two threads each would wait for one another.
    began, runs = time.monotonic(), []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for run in pool.map(lambda job: train_recipe(job[0], job[1], data, out, overrides), jobs):
            runs.append(run)
            took = time.monotonic() - began
            times = f"{clock(took)}, ETA {clock(took * (len(jobs) / len(runs) - 1))}"
            print(f"[{len(runs)}/{len(jobs)}, {times}] trained: {run}", flush=True)

    reports = [evaluate_weights(run, data=str(data), workers=2).parent for run in runs]
    exported = {run.parent.name: export_weights(run, out / "weights") for run in reversed(runs)}
    _print_table(runs)
    print(f"compare: {compare(runs, out / 'compare.html', show=False)}")
    for report in reports[: len(recipes)]:
        print(f"report: {report / 'report.html'}")
    for path in reversed(exported.values()):
        print(f"weights: {path}")


def _print_table(runs: Sequence[Path]) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    values: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        metrics = json.loads((run / "evaluation" / "metrics.json").read_text())["metrics"]
        values.setdefault(run.parent.name, []).append(metrics)
    seeds = len(runs) // len(values)
    table = Table(title=f"Validation on 797 digits, %, mean ± std over {seeds} seeds", title_justify="left")
    table.add_column("recipe")
    for title, _ in _COLUMNS:
        table.add_column(title, justify="right")
    for name, rows in values.items():
        cells = []
        for _, key in _COLUMNS:
            numbers = [100 * (1 - row[key] if key == "top1" else row[key]) for row in rows]
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            cells.append(f"{statistics.mean(numbers):.2f} ± {spread:.2f}")
        table.add_row(name, *cells)
    Console(width=max(80, shutil.get_terminal_size().columns)).print(table)
