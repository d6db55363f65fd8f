"""Peak training memory of SD-Dropout and CS-KD relative to cross-entropy, in bytes of torch's allocator.

Each method gets its own process, which builds the network and makes two optimizer steps under torch's profiler. The
profiler sees every allocation and release, so the peak is exact and the same in every run, unlike the resident set. It
includes weights, gradients, momentum, activations and temporary tensors. The detail has the resident set's growth.

Run: python benchmarks/memory.py [--quick] [--json FILE]
"""

import resource
from typing import Any

from rounds import options, result, run, start
from row import Row, report

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("ce", {}),
    "SD-Dropout": ("sd_dropout", {}),
    "CS-KD bank": ("cs_kd", {"pairing": "bank"}),
    "CS-KD batch": ("cs_kd", {"pairing": "batch"}),
    "CS-KD sampled": ("cs_kd", {"pairing": "sampled"}),
}
TARGETS = {"SD-Dropout": 1.02, "CS-KD bank": 1.02}


def peak(network: str, method: str, arguments: dict[str, Any], anchors: int, side: int) -> dict[str, int]:
    """The most bytes that tensors held at one time, from the network's creation to the end of two steps."""
    import torch  # here: the process that starts the others needs no torch
    from steps import make_step
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make_step(network, method, arguments, anchors, side)
        step()
        step()
    resident = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    largest, events = 0, list(profiler.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == _EventType.Allocation:
            largest = max(largest, event.extra_fields.total_allocated)
    return {"peak": largest, "resident_growth": resident, "parameters": step.parameters}


def main() -> None:
    given = options(__doc__)
    rows = []
    sizes = [("resnet10t", 2, 32)] if given.quick else [("resnet50", 16, 224), ("resnet152", 8, 224)]
    for network, anchors, side in sizes:
        found = {
            label: result(start(network, *METHODS[label], anchors, side))
            for label in METHODS
            if not given.quick or label in ("cross-entropy", *TARGETS)
        }
        base = found.pop("cross-entropy")
        for label, own in found.items():
            target, detail = TARGETS.get(label), {"anchors": anchors, "pixels": side, "bytes": own}
            floor = "1.00" if target or label == "CS-KD batch" else "the pairs' pixels"
            name, value = f"{label} peak memory, {network}", own["peak"] / base["peak"]
            row = Row(name, "cross-entropy", value, target, "<=" if target else None, floor)
            row.detail = detail | {"cross_entropy_bytes": base}
            rows.append(row)
    report(rows, given.json)


if __name__ == "__main__":
    run(main, peak)
