"""Time and memory of an epoch's order and pairs, for as many anchors as ImageNet-1k has and eleven times as many.

Run: python benchmarks/order.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from pathlib import Path
from statistics import median

import numpy as np
from row import Row, report

from skd_plugins.data.order import TrainingOrder

TRIED = (
    "labels are sorted and looked up as 16-bit integers, couples copied by take; left are look-ups in 112 MB, at random"
)
CLASSES, BATCH, UNIT = 1000, 256, 1_281_167
MEGABYTES = 1e6


def make(targets: np.ndarray, couples: bool) -> TrainingOrder:
    return TrainingOrder(targets, segments=("anchor", "pair"), batch_size=BATCH, couples=couples)


def work(targets: np.ndarray, couples: bool) -> None:
    """What a process does before its first batch: the tables, an epoch's order and pairs."""
    next(iter(make(targets, couples).batches(1)))


def measure(samples: int, couples: bool, rounds: int) -> tuple[list[float], float]:
    """Seconds by round, and the peak of what is allocated at a time, in bytes."""
    targets = np.random.default_rng(0).integers(0, CLASSES, samples)
    work(targets[:10_000], couples)
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work(targets, couples)
        seconds.append(time.perf_counter() - begin)
    tracemalloc.start()  # NumPy reports its arrays to it
    work(targets, couples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few anchors: proves that it works, measures nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = (100_000, 1_000_000) if options.quick else (UNIT, 14_000_000)
    rounds = 1 if options.quick else options.rounds
    rows = []
    for couples in (False, True):
        kind = "order and pairs" + (", couples" if couples else "")
        results = {samples: measure(samples, couples, rounds) for samples in sizes}
        for samples, (seconds, peak) in results.items():
            units, detail = samples / UNIT, {"seconds": round(median(seconds), 3), "peak_bytes": peak}
            rows.append(
                Row(
                    f"{kind}, {samples:,} anchors: time",
                    f"{UNIT:,} anchors",
                    median(seconds) / units,
                    0.5,
                    "<=",
                    unit="s",
                    rounds=[round(second / units, 4) for second in seconds],
                    detail=detail,
                    floor="a permutation and a stable sort",
                    note=TRIED,
                )
            )
            rows.append(
                Row(
                    f"{kind}, {samples:,} anchors: peak memory",
                    f"{UNIT:,} anchors",
                    peak / units / MEGABYTES,
                    100,
                    "<=",
                    unit="MB",
                    detail=detail,
                    floor="10 MB an array of 64-bit indices",
                )
            )
        small, large = sizes
        growth = median(results[large][0]) / median(results[small][0]) / (large / small)
        rows.append(
            Row(
                f"{kind}: time an anchor, {large:,} anchors",
                f"{small:,} anchors",
                growth,
                3,
                "<=",
                floor="1 x is linear; caches that are too small for the larger tables cost more",
                note=TRIED,
            )
        )
    report(rows, options.json)


if __name__ == "__main__":
    main()
