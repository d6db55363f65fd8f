"""A row of `make bench`: a ratio measured in one run, its target and its floor; printing and saving rows."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from skd_plugins.common.environment import git_commit, versions


@dataclass
class Row:
    """A measured ratio.

    Attributes:
        name: what was measured; together with `against` unique over all benchmarks.
        value: the median over rounds, in `unit` ("x" for a ratio); None if it could not be run.
        target: what the project promises: `value` is at most ("<=") or at least (">=") this, see `sense`.
        floor: what can't be beaten, in words.
        rounds: the ratio of each round, for the spread.
        detail: what else was measured (seconds, images/s, bytes), for the JSON.
        note: what was tried if the target is missed, or why it was not run.
    """

    name: str
    against: str
    value: float | None
    target: float | None = None
    sense: Literal["<=", ">="] | None = None
    floor: str = ""
    unit: str = "x"
    rounds: list[float] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> str:
        """pass, miss, not run, or empty if there is no target."""
        if self.value is None:
            return "not run"
        if self.target is None:
            return ""
        return "pass" if (self.value <= self.target if self.sense == "<=" else self.value >= self.target) else "miss"


def ratio(name: str, against: str, ours: Sequence[float], other: Sequence[float], **more: Any) -> Row:
    """A row with the median of ``ours / other`` over interleaved rounds; both are seconds."""
    rounds = [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
    return Row(name, against, median(rounds), rounds=[round(value, 4) for value in rounds], **more)


def machine() -> dict[str, Any]:
    """What a measurement depends on besides versions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "processor": cpu, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0],
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | against | measured | target | floor | |", "|---|---|---|---|---|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.sense} {row.target:g}"
        value = "" if row.value is None else f"{row.value:.3g} {row.unit}"
        lines.append(f"| {row.name} | {row.against} | {value} | {target} | {row.floor} | {row.verdict} |")
    return "\n".join(lines)


def report(rows: Sequence[Row], path: Path | None) -> None:
    """Prints the rows, with a line for each miss, and writes them, see `write`."""
    print(table(rows), flush=True)
    for row in rows:
        if row.verdict == "miss":
            print(f"missed: {row.name}: {row.value:.3g} {row.unit} for {row.sense} {row.target:g}. {row.note}")
        if row.value is None:
            print(f"not run: {row.name}: {row.note}")
    write(rows, path)


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Writes the rows as JSON with versions, machine and command, if a path is given."""
    if path:
        content = {
            "command": " ".join(["python", *sys.argv]), "commit": git_commit(), "versions": versions(),
            "machine": machine(), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
