"""Runs the campaigns at full length, writes their results and, from these, the table in docs/reliability.md.

python -m tests.faults [--only NAME ...] [--share 0.1] [--results FILE] [--page FILE] [--folder FOLDER]
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own helpers

from skd_plugins.common.environment import versions

from .common import ROOT, Report

PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
BEGIN, END = "<!-- campaigns: begin -->", "<!-- campaigns: end -->"


@dataclass(frozen=True)
class Entry:
    """A campaign, its number of cases at full length, what it shows, and the module that tests a few of them."""

    count: int
    shows: str
    test: str


CAMPAIGNS = {
    "ranks": Entry(12, "one of two processes dies, hangs, fails: the other ends, resumed", "training"),
    "disk": Entry(10, "full or read-only disk: said, checkpoint intact, resumed bit-equal", "training"),
    "numbers": Entry(16, "NaN, infinite gradients, odd labels and batches", "training"),
    "kills": Entry(50, "kill -9 at random moments: resumed bit-equal, no unreadable checkpoint", "training"),
    "mutated": Entry(2500, "damaged data, images, weights, cards: refused or counted", "files"),
    "hostile": Entry(9, "pickles, links, devices: refused, nothing executed or written", "files"),
    "mistyped": Entry(500, "mistyped commands and recipe values: code 2, no traceback", "files"),
    "contention": Entry(20, "several processes at once: no corruption, the loser is told", "machine"),
    "interrupted": Entry(24, "writer and reproduction killed: nothing half, continued", "machine"),
    "surroundings": Entry(7, "clock, locale, paths, home, shared memory", "machine"),
    "leaks": Entry(200, "200 epochs left early, 10,000 iterations: flat", "machine"),
    "detectors": Entry(8, "detection: kill and resume, odd images and annotations", "files"),
}


def main() -> int:
    """Runs, reports, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS))
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the results; those of other campaigns stay")
    parser.add_argument("--folder", type=Path, help="work there instead of in a temporary folder")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose table is written")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    failed = 0
    for name in arguments.only:
        entry, campaign = CAMPAIGNS[name], import_module(f"{__package__}.{name}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=f"faults-{name}-") as folder:
            try:
                report = campaign.run(max(1, round(entry.count * arguments.share)), Path(folder))
            except Exception:  # the campaign itself: shown like a failure of what it tries
                report = Report(Counter(), [traceback.format_exc()])
            if name == "leaks" and (Path(folder) / "curves.json").exists():
                campaign.draw(json.loads((Path(folder) / "curves.json").read_text()), PAGE.with_name("leaks.svg"))
        for stories in (report.failures, report.skipped):
            stories[:] = [_without_paths(story, folder) for story in stories]
        seconds = round(time.monotonic() - began)
        results[name] = {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "cases": report.cases,
            "failures": [story[:200] for story in report.failures],
            "outcomes": dict(report.outcomes),
            "skipped": report.skipped,
            "seconds": seconds,
            "versions": versions(),
            "cores": os.cpu_count(),
        }
        failed += len(report.failures)
        print(f"{name}: {report.cases} cases, {len(report.failures)} failures, {seconds} s", flush=True)
        for story in [*report.failures, *report.skipped]:
            print(f"  {story}", flush=True)
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")
        write_table(arguments.page, results)
    return int(failed > 0)


def _without_paths(story: str, folder: str) -> str:
    """The page is read elsewhere, so it names no place of this machine."""
    for place, name in ((folder, "FOLDER"), (str(ROOT), "."), (sys.prefix, "PYTHON"), (str(Path.home()), "~")):
        story = story.replace(place, name)
    return story


def write_table(page: Path, results: dict[str, dict[str, Any]]) -> None:
    """Replaces the generated part of the page."""
    rows = ["| campaign | cases | failures | outcomes | date, time |", "|---|---|---|---|---|"]
    for name, entry in CAMPAIGNS.items():
        result = results.get(name)
        link = f"[{name}](../tests/faults/{name}.py) ([test](../tests/test_faults_{entry.test}.py))"
        if result is None:
            rows.append(f"| {link}: {entry.shows} | not run yet (full: {entry.count}) | | | |")
            continue
        outcomes = "; ".join(f"{count} {what}" for what, count in sorted(result["outcomes"].items()))
        skipped = "".join(f"; not tried: {reason}" for reason in result["skipped"])
        rows.append(
            f"| {link}: {entry.shows} | {result['cases']} | {len(result['failures'])} | {outcomes}{skipped} | "
            f"{result['date']}, {result['seconds']} s |"
        )
    made = next(iter(results.values()), {}).get("versions", {})
    with_what = ", ".join(f"{name} {version}" for name, version in made.items())
    table = "\n".join([BEGIN, *rows, "", f"With {with_what}.", END])
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    page.write_text(before + table + rest.partition(END)[2])


if __name__ == "__main__":
    raise SystemExit(main())
