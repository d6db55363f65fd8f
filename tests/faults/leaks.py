"""Epochs left early and many iterations: threads, file handles and memory stay what they are."""

import gc
import itertools
import json
import os
import threading
from collections.abc import Generator
from pathlib import Path

from skd_plugins import make_loader
from skd_plugins.data.loader import Loader

from .common import Fork, Report, tiny_data

# Threads, handles and MB that the last quarter may have more than the third; each of the two workers may have an image
# of a folder open just then.
ALLOWED = {"threads": 0, "handles": 2, "megabytes": 25.0}


def run(count: int, folder: Path) -> Report:
    """`count` epochs left early and 50 times as many iterations, of a `.beton` and of a folder, each in a process."""
    report, curves = Report(), {}
    for kind, path in tiny_data().items():
        results = folder / f"{kind}.json"
        done = Fork(lambda path=path, results=results: _measure(path, count, results), folder / f"{kind}.txt").end(7200)
        assert done.returncode == 0, done.stderr
        for what, points in json.loads(results.read_text()).items():
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


def _measure(folder: Path, count: int, results: Path) -> None:
    gc.freeze()  # so that `_point` need not look at all of what was imported
    beton = folder / "train.beton"
    path = beton if beton.exists() else folder / "train"
    loader = make_loader(path, batch_size=4, image_size=32, workers=2, segments=("anchor", "pair"))
    result: dict[str, list[dict[str, float]]] = {}
    for what, total in (("epochs left early", count), ("iterations", 50 * count)):
        rounds, result[what] = _rounds(loader, what == "epochs left early"), []
        for done in range(1, total + 1):
            next(rounds)
            if done % max(total // 40, 1) == 0:
                result[what].append(_point(done / total))
        rounds.close()
    results.write_text(json.dumps(result))


def _rounds(loader: Loader, early: bool) -> Generator[None, None, None]:
    """Epochs that are left after two batches, or iterations of whole epochs."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        for number, _ in enumerate(loader):
            if early and number == 1:
                break
            if not early:
                yield
        if early:
            yield
