"""Epochs left early and many iterations: threads, file handles and memory stay what they are."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from .common import ROOT, Report, environment, tiny_data

# Threads, handles and MB that the last quarter may have more than the third; each of the two workers may have an image
# of a folder open just then.
ALLOWED = {"threads": 0, "handles": 2, "megabytes": 25.0}


def run(count: int, folder: Path) -> Report:
    """`count` epochs left early and 50 times as many iterations, of a `.beton` and of a folder, each in a process."""
    report, data = Report(), tiny_data(folder)
    curves = {}
    for kind, path in data.items():
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.leaks", str(path), kind, str(count)],
            cwd=ROOT, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        for what in ("epochs left early", "iterations"):
            points = result[what]
            curves[f"{kind}, {what}"] = points
            # The highest of a quarter: at the end of an epoch the workers may have ended already.
            third, last = (
                {key: max(point[key] for point in points[len(points) * n // 4 : len(points) * (n + 1) // 4])
                 for key in ALLOWED}
                for n in (2, 3)
            )  # fmt: skip
            fine = all(last[key] - third[key] <= most for key, most in ALLOWED.items())
            report.add(f"{what}: flat", fine, f"{kind}: {third} in the third quarter, {last} in the last")
    (folder / "curves.json").write_text(json.dumps(curves))
    return report


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The curves as an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "skd"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, key in zip(axes, ALLOWED, strict=True):
        for name, points in curves.items():
            axis.plot([point["share"] for point in points], [point[key] for point in points], label=name)
        axis.set(title=key, xlabel="share of the campaign", ylim=(0, None))
    axes[0].legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})


def _point(share: float) -> dict[str, float]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "share": share, "threads": threading.active_count(), "handles": len(os.listdir("/proc/self/fd")),
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }  # fmt: skip


def main(folder: str, kind: str, count: int) -> None:
    """Measures one kind of data and prints the points."""
    from skd_plugins import make_loader

    path = Path(folder) / ("train.beton" if kind == "beton" else "train")
    loader = make_loader(path, batch_size=4, image_size=32, workers=2, segments=("anchor", "pair"))
    result: dict[str, list[dict[str, float]]] = {}
    for what, total in (("epochs left early", count), ("iterations", 50 * count)):
        points, every, done, epoch = [], max(total // 40, 1), 0, 0
        while done < total:
            loader.set_epoch(epoch)
            epoch += 1
            for number, _ in enumerate(loader):
                if what == "iterations":
                    done += 1
                    if done % every == 0:
                        points.append(_point(done / total))
                    if done == total:
                        break
                elif number == 1:
                    break
            if what == "epochs left early":
                done += 1
                if done % every == 0:
                    points.append(_point(done / total))
        result[what] = points
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
