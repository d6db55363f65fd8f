"""Recall@1 of 50,000 x 2,048 features, exact, against scikit-learn's brute force; and its memory.

Features like those of a pooled ResNet-50: clusters, rectified, float32. Both use all threads; scikit-learn's answer has
to be the same. Each measurement is a process of its own, since the peak of the resident set never falls.

Run: python benchmarks/retrieval.py [--quick] [--json FILE]
"""

import resource
import time
from typing import Any

import numpy as np
from rounds import interleaved, options, result, run, start
from row import Row, ratio, report


def features(count: int, width: int) -> tuple[Any, Any]:
    """``[N, D]`` float32 and ``[N]`` labels; made in parts, so that making them is not the peak."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, max(count // 50, 2), count)
    centres = draw.normal(size=(labels.max() + 1, width)).astype(np.float32)
    rows = np.empty((count, width), np.float32)
    for first in range(0, count, 1000):
        part = slice(first, first + 1000)
        noise = draw.standard_normal((len(labels[part]), width), dtype=np.float32)
        rows[part] = np.maximum(0.4 * centres[labels[part]] + noise, 0)
    return rows, labels


def ours(rows: Any, labels: Any) -> float:
    from skd_plugins.evaluation import recall_at_1

    return recall_at_1(rows, labels)


def scikit_learn(rows: Any, labels: Any) -> float:
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(rows).kneighbors(return_distance=False)[:, 0]
    return float((labels[nearest] == labels).mean())


def measure(who: str, count: int, width: int) -> dict[str, float]:
    """Seconds, the answer, and bytes of the resident set's peak over the features."""
    rows, labels = features(count, width)
    search = {"ours": ours, "scikit-learn": scikit_learn}[who]
    search(rows[:64], labels[:64])  # imports and threads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    recall = search(rows, labels)
    seconds = time.perf_counter() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "recall": recall, "bytes": 1024 * grown}


def main() -> None:
    given = options(__doc__)
    count, width, rounds = (600, 32, 1) if given.quick else (50_000, 2048, 2)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "scikit-learn": []}

    def contestant(who: str) -> float:
        found[who].append(result(start(who, count, width)))
        return found[who][-1]["seconds"]

    seconds = interleaved({who: lambda who=who: contestant(who) for who in found}, rounds, warmup=0)
    recalls = {who: [one["recall"] for one in several] for who, several in found.items()}
    if not np.allclose(recalls["ours"], recalls["scikit-learn"], atol=2 / count):  # it breaks ties by position
        raise RuntimeError(f"the answers differ: {recalls}")
    size = f"{count:,} x {width:,}"
    detail = {who: several[-1] for who, several in found.items()}
    peak = max(one["bytes"] for one in found["ours"]) / 1e9
    time_row = ratio(
        f"Recall@1, {size}", "scikit-learn brute force, its time over ours", seconds["scikit-learn"], seconds["ours"],
        target=1.2, sense=">=", floor="one float32 matrix product", detail=detail,
    )  # fmt: skip
    memory_row = Row(
        f"Recall@1 memory, {size}", "the features alone", peak, 1.5, "<=", unit="GB more", detail=detail,
        floor=f"{count * width * 4 / 1e9:.2g}: a centred copy",
    )  # fmt: skip
    report([time_row, memory_row], given.json)


if __name__ == "__main__":
    run(main, measure)
