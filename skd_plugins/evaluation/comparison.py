"""``skd compare``: several evaluated runs side by side, on the terminal and as a page with curves and diagrams."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..common.errors import SkdError
from ..common.run_files import read_log, read_metrics, read_recipe
from .html import write_page
from .metrics import Reliability
from .svg import Series, curve_plot, key_sample, reliability_plot


@dataclass(frozen=True)
class Metric:
    """How a metric is shown."""

    key: str
    name: str
    unit: str
    higher_is_better: bool

    def show(self, value: float | np.floating[Any]) -> str:
        """The value without its unit."""
        return f"{100 * value:.2f}" if self.unit else f"{value:.4f}"


ECE = Metric("ece", "ECE", "%", False)
METRICS = (
    Metric("top1", "Top-1", "%", True),
    Metric("top5", "Top-5", "%", True),
    Metric("nll", "NLL", "", False),
    ECE,
    Metric("ece_10", "ECE-10", "%", False),
    Metric("recall_at_1", "Recall@1", "%", True),
    Metric("mca", "mCA", "%", True),
    Metric("superclass_error", "Superclass error", "%", False),
    Metric("scaled_nll", "Scaled NLL", "", False),
    Metric("scaled_ece", "Scaled ECE", "%", False),
    Metric("msp_auroc", "AUROC", "%", True),
    Metric("msp_fpr95", "FPR95", "%", False),
    Metric("odin_auroc", "ODIN AUROC", "%", True),
    Metric("odin_fpr95", "ODIN FPR95", "%", False),
)


def metrics_line(path: Path) -> str:
    """A ``metrics.json`` as one line of text."""
    metrics = read_metrics(path)["metrics"]
    shown = [(metric, metrics[metric.key]) for metric in METRICS if metrics.get(metric.key) is not None]
    texts = [f"{metric.name} {metric.show(value)} {metric.unit}".rstrip() for metric, value in shown]
    return f"{', '.join(texts)} ({metrics['num_samples']} images)"


def compare(
    runs: tyro.conf.Positional[Sequence[Path]],
    out: Path = Path("compare.html"),
    *,
    show: tyro.conf.Suppress[bool] = True,
) -> Path:
    """Compare evaluated runs: a table here and a page with their curves.

    Runs whose recipes differ only in the seed are shown as mean and sample standard deviation. The best value of each
    metric is marked.

    Args:
        runs: runs that skd evaluate has evaluated, or folders that it wrote to, such as RUN/evaluation-fgsm.
        out: the page, or a folder for compare.html.
        show: print the table and the page's path; notes are always printed.
    """
    if not runs:
        raise SkdError("nothing to compare; give the folders of one or more evaluated runs")
    runs, out = [*map(Path, runs)], Path(out)
    groups = group_runs([read_run(path) for path in runs])
    warnings = _warnings(groups)
    console = Console(markup=False, highlight=False)
    if show:
        table = _table(groups, narrow=console.width < 100)
        least = console.measure(table, options=console.options.update(width=1000)).minimum
        Console(markup=False, highlight=False, width=max(console.width, least)).print(table)  # no number is cut off
        console.print("* best of the column, ± sample standard deviation over the seeds")
    for warning in warnings:
        console.print(f"note: {warning}")
    page = out if out.suffix == ".html" else out / "compare.html"
    _write_page(page, groups, warnings)
    if show:
        print(f"page: {page}")
    return page


@dataclass(frozen=True, eq=False)
class Run:
    """What a comparison needs of one evaluated run."""

    path: Path  # its folder, as it was given
    variant: str  # what was evaluated if it is not RUN/evaluation: "best-fgsm" for RUN/evaluation-best-fgsm
    metrics: Mapping[str, float]  # the finite values of metrics.json
    reliability: Reliability
    info: Mapping[str, Any]
    recipe: Mapping[str, Any]  # empty if there is no recipe.json
    validation: Mapping[str, list[tuple[float, float]]]  # (epoch, value) pairs of top1 and nll


def read_run(path: str | Path) -> Run:
    """Reads a run's ``evaluation``, or any folder that an evaluation wrote to, and the recipe and log if they exist."""
    folder = Path(path)
    found = [file for file in (folder / "metrics.json", folder / "evaluation" / "metrics.json") if file.is_file()]
    if not found:
        raise SkdError(f"{folder / 'metrics.json'} is missing; `skd evaluate {folder} --data ...` writes it")
    saved = read_metrics(found[0])
    metrics = {name: float(value) for name, value in saved["metrics"].items() if value is not None}
    inside = not (folder / "recipe.json").exists() and (folder.parent / "recipe.json").exists()
    root = folder.parent if inside else folder
    variant = folder.name.removeprefix("evaluation").removeprefix("-") if inside else ""
    recipe = read_recipe(root / "recipe.json") if (root / "recipe.json").is_file() else {}
    recipe.pop("environment", None)  # differs between any two runs
    reliability, validation = Reliability.from_json(saved["reliability"]), _validation(root / "metrics.jsonl")
    return Run(folder, variant, metrics, reliability, saved["info"], recipe, validation)


def _validation(log: Path) -> Mapping[str, list[tuple[float, float]]]:
    """The validation entries of a log; of a repeated epoch the last one counts."""
    curves: dict[str, dict[float, float]] = {"top1": {}, "nll": {}}
    for _, entry in read_log(log):
        for name, curve in curves.items():
            value = getattr(entry, name)
            if entry.event == "validate" and value is not None and math.isfinite(value):
                curve[entry.epoch + 1] = value  # the log counts from 0
    return {name: sorted(curve.items()) for name, curve in curves.items()}


@dataclass(frozen=True, eq=False)
class Group:
    """One or more runs of one recipe that differ only in the seed. The name is unique in a comparison."""

    name: str
    runs: Sequence[Run]

    def values(self, key: str) -> list[float]:
        """The metric of all runs; empty if one lacks it."""
        values = [run.metrics[key] for run in self.runs if key in run.metrics]
        return values if len(values) == len(self.runs) else []

    def mean(self, key: str) -> float | None:
        """The metric's mean over the runs; None unless every run has it."""
        values = self.values(key)
        return float(np.mean(values)) if values else None

    def cell(self, metric: Metric, mark: str = "", join: str = " ") -> str:
        """Mean, mark and, of several runs, the sample standard deviation as text."""
        values = self.values(metric.key)
        if not values:
            return "–"
        deviation = f"{join}± {metric.show(np.std(values, ddof=1))}" if len(values) > 1 else ""
        return metric.show(np.mean(values)) + mark + deviation


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups runs that differ only in the seed, in the order given."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        fields = {name: value for name, value in run.recipe.items() if name != "seed"}
        # An evaluation on other data, of another checkpoint or under an attack is not another seed. Neither is a run
        # without a recipe, or with a seed that the group already has.
        kind = [fields, run.variant, run.metrics.get("num_samples")]
        key = json.dumps(kind, sort_keys=True) if fields else str(run.path)
        while any(run.recipe.get("seed") == other.recipe.get("seed") for other in together.get(key, [])):
            key += "+"
        together.setdefault(key, []).append(run)
    names = _names([runs[0] for runs in together.values()])
    return [Group(name, runs) for name, runs in zip(names, together.values(), strict=True)]


def _names(runs: Sequence[Run]) -> list[str]:
    """The recipes' names. Runs with the same name add the fields in which they differ, or else their folder."""
    names = [run.recipe.get("name") or run.path.name or str(run.path) for run in runs]
    names = [f"{name}, {run.variant}" if run.variant else name for name, run in zip(names, runs, strict=True)]
    result = []
    for name, run in zip(names, runs, strict=True):
        same = [_flat(other.recipe) for other, its in zip(runs, names, strict=True) if its == name]
        own = _flat(run.recipe)
        differing = sorted({key for other in same for key in other | own if other.get(key) != own.get(key)} - {"seed"})
        if differing:
            name += " (" + ", ".join(f"{key.rpartition('.')[2]}={own.get(key)}" for key in differing[:4]) + ")"
        result.append(name)
    return [name if result.count(name) == 1 else f"{name} [{run.path}]" for name, run in zip(result, runs, strict=True)]


def _flat(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Nested fields as ``method_args.weight``."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _warnings(groups: Sequence[Group]) -> list[str]:
    """What makes the numbers hard to compare."""
    runs = [run for group in groups for run in group.runs]
    warnings = []
    if len({run.metrics.get("num_samples") for run in runs}) > 1:
        counts = ", ".join(f"{g.name}: {g.mean('num_samples') or float('nan'):,.0f}" for g in groups)
        warnings.append(f"the runs were evaluated on different numbers of images ({counts})")
    for key, what in (("data", "data"), ("out of distribution", "images of no known class")):
        data = sorted({str(run.info[key]) for run in runs if key in run.info})
        if len(data) > 1:
            warnings.append(f"the runs were evaluated on different {what} ({', '.join(data)})")
    return warnings


def winners(groups: Sequence[Group]) -> dict[Metric, set[str]]:
    """The metrics that a group has, each with the names of the best groups; none where all are equal."""
    found = {}
    for metric in METRICS:
        means = {group.name: mean for group in groups if (mean := group.mean(metric.key)) is not None}
        if means:
            top = max(means.values()) if metric.higher_is_better else min(means.values())
            best = {name for name, mean in means.items() if mean == top}
            found[metric] = best if len(set(means.values())) > 1 else set()
    return found


def _table(groups: Sequence[Group], *, narrow: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=16)
    metrics = winners(groups)
    for metric in metrics:
        table.add_column("\n".join([*metric.name.split(), metric.unit]), justify="right", no_wrap=True)
    for group in groups:
        count = len(group.runs)
        name = re.sub(r"^(\w+\.)(?=\w)", "\\1\n", group.name) if narrow else group.name
        cells = [Text(name + (f"\n{count} seeds" if count > 1 else ""))]
        for metric, best in metrics.items():
            won = group.name in best
            # The deviation has its own line, so that all columns fit in 80 characters.
            cells.append(Text(group.cell(metric, "*" if won else "", "\n"), style="bold" if won else ""))
        table.add_row(*cells)
    return table


def _write_page(path: Path, groups: Sequence[Group], warnings: list[str]) -> None:
    curves, styles = [], set[int]()
    for key, title, percent in (("top1", "Validation top-1", True), ("nll", "Validation NLL", False)):
        series = [
            Series(f"{group.name} [{run.path}]", style, points)
            for style, group in enumerate(groups)
            for run in group.runs
            if len(points := run.validation[key]) > 1  # one point makes no curve
        ]
        if series:
            curves.append((title, curve_plot(title, series, percent=percent)))
            styles |= {one.style for one in series}
    pools = [Reliability.pooled([run.reliability for run in group.runs]) for group in groups]
    write_page(
        path,
        "compare.html.jinja",
        title="Comparison of runs" if len(groups) > 1 else groups[0].name,
        groups=groups,
        metrics=winners(groups),
        run_count=sum(len(group.runs) for group in groups),
        warnings=warnings,
        curves=curves,
        legend=[(groups[style].name, key_sample(style)) for style in sorted(styles)],
        diagrams=[
            (group.name, group.cell(ECE), reliability_plot(pool, small=True))
            for group, pool in zip(groups, pools, strict=True)
        ],
    )
