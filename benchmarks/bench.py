"""Runs all benchmarks one after the other, each in its own process, and writes one table, one JSON file and one plot.

Run: make bench, or python benchmarks/bench.py [--quick] [--only NAME ...] [--timm pytorch-image-models]
     python benchmarks/bench.py --readme      # the committed results into docs/benchmarks.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rounds import ROOT, TIMM
from row import Row, table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
# row and rounds are shared parts; methods and gpu are run by themselves.
OTHERS = {"row", "rounds", "bench", "methods", "gpu", "evidence", "evidence_page", "stamps", "finetune",
          "detection_calibration", "detection_libraries", "detection_temperature"}  # fmt: skip
MARKERS = ("<!-- bench -->", "<!-- /bench -->")


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in OTHERS)


def run_one(name: str, quick: bool, timm: str | None) -> dict[str, Any]:
    """Runs a benchmark and returns its JSON with the seconds it took."""
    environment = os.environ | ({"TIMM_REPOSITORY": timm} if timm else {})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(out), *(["--quick"] if quick else [])]
        begin = time.monotonic()
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"benchmarks/{name}.py failed with exit status {done.returncode}")
        result: dict[str, Any] = json.loads(out.read_text())
    command_shown = f"python benchmarks/{name}.py{' --quick' if quick else ''}"
    return result | {"command": command_shown, "duration_seconds": round(time.monotonic() - begin)}


def rows_of(content: dict[str, Any]) -> list[Row]:
    return [
        Row(**{key: value for key, value in row.items() if key != "verdict"})
        for benchmark in content["benchmarks"].values()
        for row in benchmark["rows"]
    ]


def plot(rows: list[Row], path: Path) -> None:
    """Draws each row's share of its target; pass and miss differ in shape as well as in colour."""
    import matplotlib  # here, because the backend has to be chosen before pyplot is imported

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    measured = [row for row in rows if row.verdict in ("pass", "miss") and row.value is not None and row.target]
    figure, axes = plt.subplots(figsize=(11, 1 + 0.26 * max(len(measured), 1)), layout="constrained")
    for verdict, marker, colour in (("pass", "o", "#0072b2"), ("miss", "X", "#d55e00")):
        # Left of 1 is better, whichever way the target points.
        points = [
            (row.value / row.target if row.sense == "<=" else row.target / row.value, len(measured) - place)
            for place, row in enumerate(measured)
            if row.verdict == verdict
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, label=verdict, zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(measured), 0, -1), [f"{row.name}, against {row.against}" for row in measured], fontsize=7)
    axes.set_xlabel("share of the target: left of 1 it is met")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def page(text: str, content: dict[str, Any]) -> str:
    """Returns the page with the results between its markers: counts, table, and a line for each missed target."""
    rows = rows_of(content)
    lines = [f"{counts(rows)}.", "", table(rows), ""]
    for row in rows:
        if row.verdict == "miss":
            lines.append(
                f"- Missed: {row.name}: {row.value:.3g} {row.unit} for {row.sense} {row.target:g}. {row.note}."
            )
    before, _, rest = text.partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    return "\n".join([before + MARKERS[0], *lines, "", MARKERS[1] + after])


def counts(rows: list[Row]) -> str:
    verdicts = [row.verdict for row in rows if row.verdict]
    text = f"{verdicts.count('pass')} of {len(verdicts)} targets met, {verdicts.count('miss')} missed"
    return text + (f", {verdicts.count('not run')} not run" if "not run" in verdicts else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all run, measures nothing")
    parser.add_argument("--only", nargs="+", choices=names(), metavar="NAME", help=f"some of: {', '.join(names())}")
    parser.add_argument("--timm", help=TIMM)
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.svg; default: benchmarks/results")
    parser.add_argument("--readme", action="store_true", help="only update docs/benchmarks.md from the results")
    given = parser.parse_args()
    if given.readme:
        PAGE.write_text(page(PAGE.read_text(), json.loads((RESULTS / "bench.json").read_text())))
        return
    out = given.out or (ROOT / "runs" / "bench" if given.quick or given.only else RESULTS)
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "bench.json"
    content: dict[str, Any] = {"benchmarks": {}}
    if path.is_file() and given.only:  # keep the other results
        content = json.loads(path.read_text())
    for name in given.only or names():
        print(f"\n{name}", flush=True)
        started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        content["benchmarks"][name] = run_one(name, given.quick, given.timm) | {"started": started}
        path.write_text(json.dumps(content, indent=1) + "\n")  # now, because a later one may fail
    rows = rows_of(content)
    plot(rows, out / "bench.svg")
    print(f"\n{table(rows)}\n")
    print(f"{counts(rows)}; {time.monotonic() - begin:.0f} s; {path}, bench.svg")


if __name__ == "__main__":
    main()
