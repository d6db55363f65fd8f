"""Our numbers beside the papers', and whether they agree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...common.errors import SkdError
from ..runs.jobs import Plan
from ..runs.store import Store
from ..tables.artefact import Artefact
from ..tables.published import METRICS, Published, in_printed_unit

Outcome = Literal["agrees", "differs", "not run", "not compared"]


@dataclass(frozen=True)
class Result:
    """A published number with ours.

    Args:
        ours: one value for each seed that has been run, in the published unit.
        compared: whether ours is meant to be the same (the full scale).
    """

    published: Published
    ours: tuple[float, ...]
    compared: bool = True

    @property
    def mean(self) -> float | None:
        """Over our seeds."""
        return statistics.fmean(self.ours) if self.ours else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation over our seeds; None for fewer than two."""
        return statistics.stdev(self.ours) if len(self.ours) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        return None if self.mean is None else self.mean - self.published.number

    @property
    def outcome(self) -> Outcome:
        """The verdict without its reason."""
        if self.difference is None:
            return "not run"
        if not self.compared:
            return "not compared"
        rounding = 0.5 * 10.0**-self.published.decimals
        return "agrees" if abs(self.difference) <= self._spread[0] + rounding + 1e-9 else "differs"

    @property
    def verdict(self) -> str:
        """In plain words.

        The two agree if their means differ by no more than the paper's standard deviation, or ours if the paper states
        none, or 0 if there is neither, plus what rounding to the printed digits can make.
        """
        return f"agrees {self._spread[1]}" if self.outcome == "agrees" else self.outcome

    @property
    def _spread(self) -> tuple[float, str]:
        if self.published.std:
            return float(self.published.std), "within the stated std"
        if self.std is not None:
            return self.std, "within our std, none is stated"
        return 0.0, "to the printed digits, no std is known"

    @property
    def ours_text(self) -> str:
        """Mean and standard deviation with the paper's digits; a dash if nothing has been run."""
        if self.mean is None:
            return "–"
        return self.published.show(self.mean) + ("" if self.std is None else f" ± {self.std:.{self._decimals}f}")

    @property
    def difference_text(self) -> str:
        """Ours minus theirs with a sign; a dash if there is nothing to compare."""
        if self.difference is None or not self.compared:
            return "–"
        return f"{self.difference:+.{self._decimals}f}"

    @property
    def _decimals(self) -> int:
        return self.published.decimals


def results_of(artefact: Artefact, plan: Plan, store: Store) -> list[Result]:
    """One result for each published number of a table, in the paper's order."""
    compared = plan.datasets.scale == "full"
    by_seed = {row: _values(artefact, row, plan, store) for row in artefact.numbers if not row.derived}
    for row in artefact.numbers:
        if row.derived:
            values, bases = (by_seed[one] for one in base_of(row, list(by_seed)))
            by_seed[row] = {seed: derive(row.metric, values[seed], bases[seed]) for seed in values if bases.get(seed)}
    return [Result(row, tuple(by_seed[row].values()), compared) for row in artefact.numbers]


def _values(artefact: Artefact, row: Published, plan: Plan, store: Store) -> dict[int, float]:
    """Seed to value in the printed unit, of the seeds that have been run."""
    measure = METRICS[row.metric]
    key = measure.key.format(**row.settings)
    values: dict[int, float] = {}
    for job in plan.jobs_of(artefact, artefact.entry_of(row)):
        value = (store.values(job.address, measure.evaluation) or {}).get(key)  # null is a value that is not finite
        if value is not None:
            values[job.recipe.seed] = in_printed_unit(row.metric, value)
    return values


def base_of(row: Published, rows: Sequence[Published]) -> tuple[Published, Published]:
    """The two printed numbers that a derived one follows from: its own method's and the one it is compared with."""
    metric = "top1_error" if row.metric == "top1_error_rel_change_percent" else "top1_acc"
    base = {"CS-KD": "Cross-entropy", "SD-Dropout": "Cross-Entropy"}.get(row.method)
    pair = []
    for method in (row.method, base or row.method.removesuffix("+SD-Dropout")):
        wanted = (method, metric, row.architecture, row.dataset)
        found = [one for one in rows if (one.method, one.metric, one.architecture, one.dataset) == wanted]
        if len(found) != 1:
            raise SkdError(f"{row.id}: {len(found)} numbers could be the {row.metric} of {row.method}; see results.csv")
        pair.append(found[0])
    return pair[0], pair[1]


def derive(metric: str, value: float, base: float) -> float:
    """A relative change in percent, or a gain in points."""
    return 100 * (value - base) / base if metric == "top1_error_rel_change_percent" else value - base
