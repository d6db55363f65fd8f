"""Our numbers beside the papers', and what can be said of the two."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...common.errors import SkdError
from ..runs.jobs import Plan
from ..runs.store import Store
from ..tables.artefact import Artefact
from ..tables.published import Published, in_printed_unit

Outcome = Literal["agrees", "differs", "not run", "not compared"]


@dataclass(frozen=True)
class Result:
    """A published number with ours.

    Attributes:
        published: theirs.
        ours: one value a seed that has been run, in their unit.
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
        """Whether the two agree, see `verdict`."""
        if not self.ours:
            return "not run"
        if not self.compared:
            return "not compared"
        return "agrees" if self.verdict.startswith("agrees") else "differs"

    @property
    def verdict(self) -> str:
        """In plain words.

        They agree if the means differ by no more than the paper's standard deviation, or ours where it states none, or
        not at all where there is neither; always give or take what rounding to the printed digits can make.
        """
        if not self.ours:
            return "not run"
        if not self.compared:
            return "not compared"
        spread, words = self.published.spread, "within the stated std"
        if spread is None:
            spread, words = self.std, "within our std, none is stated"
        if spread is None:
            spread, words = 0.0, "to the printed digits, no std is known"
        assert self.difference is not None
        rounding = 0.5 * 10.0**-self.published.decimals
        return f"agrees {words}" if abs(self.difference) <= spread + rounding + 1e-9 else "differs"

    @property
    def ours_text(self) -> str:
        """Mean and standard deviation with the paper's digits; a dash if it has not been run."""
        if self.mean is None:
            return "–"
        return self.published.show(self.mean) + ("" if self.std is None else f" ± {self.std:.{self._decimals}f}")

    @property
    def paper_text(self) -> str:
        """As printed."""
        return self.published.value + (f" ± {self.published.std}" if self.published.std else "")

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
    """One for each published number of a table, in the paper's order."""
    compared = plan.datasets.scale == "full"
    by_seed = {row: _values(artefact, row, plan, store) for row in artefact.numbers if not row.derived}
    results = []
    for row in artefact.numbers:
        values = _derived(row, by_seed) if row.derived else by_seed[row]
        results.append(Result(row, tuple(values.values()), compared))
    return results


def _values(artefact: Artefact, row: Published, plan: Plan, store: Store) -> dict[int, float]:
    """Seed to value in the printed unit, of the seeds that have been run."""
    measure = artefact.measures[row.metric]
    key = measure.key.format(**row.settings)
    values: dict[int, float] = {}
    for job in plan.jobs_of(artefact, artefact.entry_of(row)):
        found = store.values(job.address, measure.evaluation)
        value = None if found is None else found.get(key)  # null is not finite
        if value is not None:
            values[job.recipe.seed] = in_printed_unit(row.metric, value)
    return values


def base_of(row: Published, rows: Sequence[Published]) -> tuple[Published, Published]:
    """The printed numbers that a derived one is computed of: its method's and the one it is compared with."""
    metric = "top1_error" if row.metric == "top1_error_rel_change_percent" else "top1_acc"
    base = {"CS-KD": "Cross-entropy", "SD-Dropout": "Cross-Entropy"}.get(row.method)
    if base is None:
        base = row.method.removesuffix("+SD-Dropout")
    pair = []
    for method in (row.method, base):
        found = [
            other for other in rows
            if (other.method, other.metric, other.architecture, other.dataset)
            == (method, metric, row.architecture, row.dataset)
        ]  # fmt: skip
        if len(found) != 1:
            raise SkdError(f"{row.id}: {len(found)} numbers that the {row.metric} of {row.method} could be of")
        pair.append(found[0])
    return pair[0], pair[1]


def derive(metric: str, value: float, base: float) -> float:
    """A relative change in percent, or a gain in points."""
    return 100 * (value - base) / base if metric == "top1_error_rel_change_percent" else value - base


def _derived(row: Published, by_seed: dict[Published, dict[int, float]]) -> dict[int, float]:
    values, bases = (by_seed[one] for one in base_of(row, list(by_seed)))
    return {seed: derive(row.metric, value, bases[seed]) for seed, value in values.items() if bases.get(seed)}
