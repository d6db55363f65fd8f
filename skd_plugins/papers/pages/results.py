"""Our numbers beside the papers': whether they agree, and where they stand in the paper's table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.jobs import Plan
from ..runs.store import Store
from ..tables.artefact import Artefact
from ..tables.published import METRICS, Published, in_printed_unit


@dataclass(frozen=True)
class Result:
    """A published number with ours."""

    published: Published
    ours: tuple[float, ...]  # one value for each seed that has been run, in the published unit
    compared: bool = True  # whether ours should match the published number (full scale only)

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
    def verdict(self) -> str:
        """Whether ours agrees, in plain words.

        The two agree if their means differ by no more than a standard deviation plus the rounding error of the printed
        digits. The deviation is the paper's, or ours if the paper states none, or 0 if there is neither.
        """
        if self.difference is None:
            return "not run"
        if not self.compared:
            return "not compared"
        spread, why = self.std, "within our std, none is stated"
        if self.published.std:
            spread, why = float(self.published.std), "within the stated std"
        elif spread is None:
            spread, why = 0.0, "to the printed digits, no std is known"
        rounding = 0.5 * 10.0**-self.published.decimals
        return f"agrees {why}" if abs(self.difference) <= spread + rounding + 1e-9 else "differs"

    @property
    def outcome(self) -> str:
        """The verdict without its reason."""
        return "agrees" if self.verdict.startswith("agrees") else self.verdict

    @property
    def ours_text(self) -> str:
        """Mean and standard deviation with the paper's digits; a dash if nothing has been run."""
        if self.mean is None:
            return "–"
        spread = "" if self.std is None else f" ± {self.std:.{self.published.decimals}f}"
        return self.published.show(self.mean) + spread

    @property
    def difference_text(self) -> str:
        """Ours minus theirs with a sign; a dash if there is nothing to compare."""
        if self.difference is None or not self.compared:
            return "–"
        return f"{self.difference:+.{self.published.decimals}f}"


def results_of(artefact: Artefact, plan: Plan, store: Store) -> list[Result]:
    """One result for each published number of a table, in the paper's order."""
    by_seed = {row: _values(artefact, row, plan, store) for row in artefact.numbers if not row.derived}
    for row in artefact.numbers:
        if row.derived:
            values, bases = (by_seed[one] for one in base_of(row, list(by_seed)))
            by_seed[row] = {seed: derive(row.metric, values[seed], bases[seed]) for seed in values if bases.get(seed)}
    full = plan.datasets.scale == "full"
    return [Result(row, tuple(by_seed[row].values()), compared=full) for row in artefact.numbers]


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
    """The two printed numbers from which a derived one is computed: its method's, and the one it is compared with."""
    metric = "top1_error" if row.metric == "top1_error_rel_change_percent" else "top1_acc"
    plain = {"CS-KD": "Cross-entropy", "SD-Dropout": "Cross-Entropy"}.get(row.method)

    def printed(method: str) -> Published:
        wanted = (method, metric, row.architecture, row.dataset)
        (found,) = (one for one in rows if (one.method, one.metric, one.architecture, one.dataset) == wanted)
        return found

    return printed(row.method), printed(plain or row.method.removesuffix("+SD-Dropout"))


def derive(metric: str, value: float, base: float) -> float:
    """A relative change in percent, or a gain in points."""
    return 100 * (value - base) / base if metric == "top1_error_rel_change_percent" else value - base


def lay_out(artefact: Artefact, results: Sequence[Result]) -> tuple[list[str], dict[str, list[list[Result]]]]:
    """A table's headings and rows, in the papers' order; a cell has a number and those derived from it, or nothing."""
    cells: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        place = (_heading(result.published, artefact.rows), _heading(result.published, artefact.columns))
        cells.setdefault(place, []).append(result)
    rows, columns = (list(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    corner = " / ".join(artefact.rows) + (f" \\ {artefact.columns[0]}" if artefact.kind == "grid" else "")
    return [corner, *columns], {row: [cells.get((row, column), []) for column in columns] for row in rows}


def _heading(row: Published, names: Sequence[str]) -> str:
    words = {**vars(row), **row.settings, "metric": row.label}
    return ", ".join(words[name] for name in names if words.get(name))
