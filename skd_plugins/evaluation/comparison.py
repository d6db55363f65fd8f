"""Several runs side by side: a table on the terminal, and a page with curves and reliability diagrams."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import SkdError
from .metrics import Reliability
from .runs import Run, read_run


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: as percent or as it is, and which direction is better."""

    key: str
    name: str
    percent: bool
    higher_is_better: bool

    @property
    def unit(self) -> str:
        """The unit of what `show` returns, empty if there is none."""
        return "%" if self.percent else ""

    def show(self, value: float) -> str:
        """The value without its unit."""
        return f"{100 * value:.2f}" if self.percent else f"{value:.4f}"


ECE = Metric("ece", "ECE", True, False)
METRICS = (
    Metric("top1", "Top-1", True, True),
    Metric("top5", "Top-5", True, True),
    Metric("nll", "NLL", False, False),
    ECE,
    Metric("ece_10", "ECE-10", True, False),
    Metric("recall_at_1", "Recall@1", True, True),
)


def metrics_line(path: Path) -> str:
    """A ``metrics.json`` as one line of text."""
    metrics = json.loads(path.read_text())["metrics"]
    shown = [(metric, metrics[metric.key]) for metric in METRICS if metrics[metric.key] is not None]
    texts = [f"{metric.name} {metric.show(value)} {metric.unit}".rstrip() for metric, value in shown]
    return f"{', '.join(texts)} ({metrics['num_samples']} images)"


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one recipe that differ in nothing but the seed; often just one run.

    Attributes:
        name: unique among the groups of a comparison.
        runs: at least one.
    """

    name: str
    runs: Sequence[Run]

    def values(self, key: str) -> list[float]:
        """The metric of every run that has it."""
        return [run.metrics[key] for run in self.runs if key in run.metrics]

    def mean(self, key: str) -> float | None:
        """The metric's mean over the runs; None unless every run has it."""
        values = self.values(key)
        return float(np.mean(values)) if len(values) == len(self.runs) else None

    def std(self, key: str) -> float | None:
        """The sample standard deviation; None for fewer than two runs."""
        values = self.values(key)
        return float(np.std(values, ddof=1)) if len(values) == len(self.runs) > 1 else None

    def reliability(self) -> Reliability | None:
        """The diagram of all runs' samples together; None if a run has none or other bins."""
        diagrams = [run.reliability for run in self.runs if run.reliability is not None]
        if len(diagrams) != len(self.runs) or any(not np.array_equal(d.edges, diagrams[0].edges) for d in diagrams):
            return None
        counts = np.sum([d.counts for d in diagrams], axis=0)
        with np.errstate(invalid="ignore"):
            accuracy = np.sum([np.nan_to_num(d.accuracy) * d.counts for d in diagrams], axis=0) / counts
            confidence = np.sum([np.nan_to_num(d.confidence) * d.counts for d in diagrams], axis=0) / counts
        return Reliability(diagrams[0].edges, counts, accuracy, confidence)


def compare(runs: Sequence[str | Path], out: str | Path, *, show: bool = True) -> Path:
    """Prints a table of the runs' metrics and writes ``compare.html``.

    Runs whose recipes differ only in the seed are shown as mean and sample standard deviation. The best value of every
    metric is marked.

    Args:
        runs: folders that `write_report` wrote to, or whose ``evaluation`` folder it wrote to, see `read_run`.
        out: the folder for ``compare.html``, or the page's own path if it ends in ``.html``.
        show: print the table; warnings are printed in any case.

    Returns:
        The path of the page.

    Raises:
        SkdError: no runs, one given twice, or one without usable metrics.
    """
    from rich.console import Console

    if not runs:
        raise SkdError("nothing to compare; give the folders of two or more evaluated runs")
    seen: set[Path] = set()
    for path in map(Path, runs):
        if path.resolve() in seen:
            raise SkdError(f"{path} is given twice")
        seen.add(path.resolve())
    groups = group_runs([read_run(path) for path in runs])
    warnings = _warnings(groups)
    console = Console()
    if show:
        console.print(_table(groups, narrow=console.width < 100))
        console.print("* best of the column, ± sample standard deviation over the seeds", markup=False, highlight=False)
    for warning in warnings:
        console.print(f"note: {warning}", markup=False, highlight=False)
    page = Path(out) if str(out).endswith(".html") else Path(out) / "compare.html"
    _write_page(page, groups, warnings)
    return page


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts runs together that differ in their seed only, in the order in which they are given."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        fields = {name: value for name, value in run.recipe.items() if name != "seed"}
        # Without a recipe nothing says what a run is. The same seed twice is no sample of anything, and neither are
        # evaluations on different data, or of the best checkpoint and under an attack.
        kind = [fields, run.variant, run.metrics.get("num_samples")]
        key = json.dumps(kind, sort_keys=True) if fields else str(run.path)
        while any(run.recipe.get("seed") == other.recipe.get("seed") for other in together.get(key, [])):
            key += "+"
        together.setdefault(key, []).append(run)
    members = list(together.values())
    return [Group(name, runs) for name, runs in zip(_names([m[0] for m in members]), members, strict=True)]


def best(groups: Sequence[Group], metric: Metric) -> set[str]:
    """The names of the groups with the best mean; none if there is nothing to choose from."""
    means = {group.name: mean for group in groups if (mean := group.mean(metric.key)) is not None}
    if len(means) < 2 or len(set(means.values())) == 1:
        return set()
    top = max(means.values()) if metric.higher_is_better else min(means.values())
    return {name for name, mean in means.items() if mean == top}


def _names(runs: Sequence[Run]) -> list[str]:
    """The recipes' names; where several share one, with the fields in which they differ, or else the folder."""
    names = [
        str(run.recipe.get("name") or run.path.name or run.path) + (f", {run.variant}" if run.variant else "")
        for run in runs
    ]
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
    data = sorted({str(run.info["data"]) for run in runs if "data" in run.info})
    if len(data) > 1:
        warnings.append(f"the runs were evaluated on different data ({', '.join(data)})")
    return warnings


def _shown(groups: Sequence[Group]) -> list[Metric]:
    return [metric for metric in METRICS if any(group.mean(metric.key) is not None for group in groups)]


def _cell(group: Group, metric: Metric, mark: str = "", join: str = " ") -> str:
    mean, std = group.mean(metric.key), group.std(metric.key)
    if mean is None:
        return "–"
    return metric.show(mean) + mark + ("" if std is None else f"{join}± {metric.show(std)}")


def _table(groups: Sequence[Group], *, narrow: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=16)
    metrics = _shown(groups)
    winners = {metric.key: best(groups, metric) for metric in metrics}
    for metric in metrics:
        table.add_column(f"{metric.name}\n{metric.unit}", justify="right", no_wrap=True)
    for group in groups:
        count = len(group.runs)
        name = re.sub(r"^(\w+\.)(?=\w)", "\\1\n", group.name) if narrow else group.name
        cells = [Text(name + (f"\n{count} seeds" if count > 1 else ""))]
        for metric in metrics:
            won = group.name in winners[metric.key]
            # The deviation on a line of its own, so that all columns fit in 80 characters.
            cells.append(Text(_cell(group, metric, "*" if won else "", "\n"), style="bold" if won else ""))
        table.add_row(*cells)
    return table


def _write_page(path: Path, groups: Sequence[Group], warnings: list[str]) -> None:
    from .html import write_page
    from .svg import Series, curve_plot, key_sample, reliability_plot

    metrics = _shown(groups)
    winners = {metric.key: best(groups, metric) for metric in metrics}
    rows = []
    for group in groups:
        recipe = group.runs[0].recipe
        singles = [
            {
                "path": str(run.path),
                "seed": run.recipe.get("seed", "–"),
                "cells": [
                    metric.show(run.metrics[metric.key]) if metric.key in run.metrics else "–" for metric in metrics
                ],
            }
            for run in group.runs
        ]
        rows.append(
            {
                "name": group.name,
                "method": recipe.get("method", ""),
                "model": recipe.get("model", ""),
                "cells": [(_cell(group, metric), group.name in winners[metric.key]) for metric in metrics],
                "runs": singles,
            }
        )
    curves = []
    for key, title, percent in (("top1", "Validation top-1", True), ("nll", "Validation NLL", False)):
        series = [
            Series(f"{group.name} [{run.path}]", style, points)
            for style, group in enumerate(groups)
            for run in group.runs
            if (points := run.validation.get(key))
        ]
        if any(len(one.points) > 1 for one in series):
            curves.append((title, curve_plot(title, series, percent=percent)))
    with_curve = [(n, g) for n, g in enumerate(groups) if any(any(run.validation.values()) for run in g.runs)]
    diagrams = [(group, bins) for group in groups if (bins := group.reliability()) is not None]
    write_page(
        path,
        "compare.html.jinja",
        title="Comparison of runs" if len(groups) > 1 else groups[0].name,
        metrics=metrics,
        rows=rows,
        run_count=sum(len(group.runs) for group in groups),
        warnings=warnings,
        curves=curves,
        legend=[(group.name, key_sample(style)) for style, group in with_curve],
        diagrams=[(group.name, _cell(group, ECE), reliability_plot(bins, small=True)) for group, bins in diagrams],
    )
