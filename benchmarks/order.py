"""Time and memory of an epoch's order and pairs, for as many anchors as ImageNet-1k has and eleven times as many.

Run: python benchmarks/order.py [--quick] [--rounds 5] [--json FILE]
"""

import time
import tracemalloc
from statistics import median

import numpy as np
from rounds import options
from row import Row, report

from skd_plugins.data.order import TrainingOrder

TRIED = (
    "labels are sorted and looked up as 16-bit integers, couples copied by take; left are look-ups in 112 MB, at random"
)
CLASSES, BATCH, UNIT = 1000, 256, 1_281_167


def work(targets: np.ndarray, couples: bool) -> None:
    """What a process does before its first batch: the tables, an epoch's order and pairs."""
    order = TrainingOrder(targets, segments=("anchor", "pair"), batch_size=BATCH, couples=couples)
    next(iter(order.batches(1)))


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
    given = options(__doc__, rounds=5)
    small, large = (100_000, 1_000_000) if given.quick else (UNIT, 14_000_000)
    rounds = 1 if given.quick else given.rounds
    unit = f"{UNIT:,} anchors"
    rows = []
    for couples in (False, True):
        kind = "order and pairs" + (", couples" if couples else "")
        results = {samples: measure(samples, couples, rounds) for samples in (small, large)}
        for samples, (seconds, peak) in results.items():
            units, detail = samples / UNIT, {"seconds": round(median(seconds), 3), "peak_bytes": peak}
            row = Row(f"{kind}, {samples:,} anchors: time", unit, median(seconds) / units, 0.5, "<=", unit="s")
            row.floor, row.note, row.detail = "a permutation and a stable sort", TRIED, detail
            row.rounds = [round(second / units, 4) for second in seconds]
            memory = Row(f"{kind}, {samples:,} anchors: peak memory", unit, peak / units / 1e6, 100, "<=", unit="MB")
            memory.floor, memory.detail = "10 MB an array of 64-bit indices", detail
            rows += [row, memory]
        growth = median(results[large][0]) / median(results[small][0]) / (large / small)
        row = Row(f"{kind}: time an anchor, {large:,} anchors", f"{small:,} anchors", growth, 3, "<=", note=TRIED)
        row.floor = "1 x is linear; caches that are too small for the larger tables cost more"
        rows.append(row)
    report(rows, given.json)


if __name__ == "__main__":
    main()
