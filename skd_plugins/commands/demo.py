"""``skd demo``: the whole way on the embedded digits, from data to exported weights."""

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..common.errors import SkdError
from ..common.meter import tracked
from ..data.find import embedded
from ..evaluation import compare
from ..evaluation.evaluate import evaluate_weights
from ..training.project import project, train_recipe
from ..weights import export_weights

RECIPES = ("digits_ce", "digits_cskd", "digits_sddropout")
_COLUMNS = {"top1 error": "top1", "ECE": "ece", "R@1": "recall_at_1"}


def demo(*, out: Path = Path("runs/demo"), seeds: int = 3) -> None:
    """Train cross-entropy, CS-KD and SD-Dropout on the embedded digits, evaluate, export, and print one table.

    Args:
        out: where data, runs, reports and weights go; complete runs in it are not repeated.
        seeds: runs of each recipe.
    """
    if seeds < 1:
        raise SkdError(f"--seeds should be at least 1, got {seeds}")
    data = embedded("digits", out / "data")
    print(f"data: {data}/train.beton, val.beton (scikit-learn's digits, 20 labels a class, 797 to validate)")
    jobs = [(project() / "recipes" / f"{name}.py", seed) for seed in range(seeds) for name in RECIPES]
    # One run per core, with one thread each: runs with several threads would wait for each other.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        training = pool.map(lambda job: train_recipe(job[0], job[1], data, out), jobs)
        runs = list(tracked(training, "training", len(jobs)))
    reports = [evaluate_weights(run, data=str(data), workers=2) for run in runs]
    weights = [export_weights(run, out / "weights") for run in runs[: len(RECIPES)]]
    _print_table(runs)
    print(f"compare: {compare(runs, out / 'compare.html', show=False)}")
    for report in reports[: len(RECIPES)]:
        print(f"report: {report}")
    for path in weights:
        print(f"weights: {path}")


def _print_table(runs: Sequence[Path]) -> None:
    metrics: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        values = json.loads((run / "evaluation" / "metrics.json").read_text())["metrics"]
        metrics.setdefault(run.parent.name, []).append(values)
    seeds = len(runs) // len(metrics)
    table = Table("recipe", title=f"Validation on 797 digits, %, mean ± std over {seeds} seeds", title_justify="left")
    for title in _COLUMNS:
        table.add_column(title, justify="right")
    for name, rows in metrics.items():
        cells = []
        for key in _COLUMNS.values():
            numbers = [100 * (1 - row[key] if key == "top1" else row[key]) for row in rows]
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            cells.append(f"{statistics.mean(numbers):.2f} ± {spread:.2f}")
        table.add_row(name, *cells)
    Console(width=max(80, shutil.get_terminal_size().columns)).print(table)
