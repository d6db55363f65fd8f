"""Two processes against one: efficiency of DistributedDataParallel on gloo, and its traffic against the formula.

Each process has one thread and the same number of anchors, so two processes do twice the work. The step is our task's
with cross-entropy. Each process also all-reduces a buffer of the gradients' size alone, to time the communication. In a
ring every process sends ``4 * parameters * 2 * (n - 1) / n`` bytes; they are counted on the loopback interface, which
should carry no other traffic. See docs/scaling.md.

Run: python benchmarks/scaling.py [--quick] [--json FILE]
"""

import socket
import time
from pathlib import Path
from statistics import median
from typing import Any

from rounds import options, result, run, start
from row import Row, report


def work(network: str, anchors: int, side: int, rounds: int) -> dict[str, Any]:
    """Measures in one of the processes: each step alone, side by side and together, each after a barrier."""
    import torch  # here: the process that starts the others needs no torch
    import torch.distributed as dist
    from steps import make_step

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    alone, together = (make_step(network, "ce", {}, anchors, side) for _ in range(2))
    together.task.prepare_distributed()
    gradients = torch.ones(alone.parameters)
    seconds: dict[str, list[float]] = {"alone": [], "both_alone": [], "together": [], "all_reduce": []}
    traffic: list[int] = []
    for number in range(rounds + 1):
        for name in seconds:
            dist.barrier()
            sent, begin = loopback_bytes(), time.perf_counter()
            if (name == "alone" and rank == 0) or name == "both_alone":
                alone()
            elif name == "together":
                together()
            elif name == "all_reduce":
                dist.all_reduce(gradients)
            elapsed = time.perf_counter() - begin
            dist.barrier()
            if number:
                seconds[name].append(elapsed)
                if name == "together":
                    traffic.append(loopback_bytes() - sent)
    together.task.end_distributed()
    dist.destroy_process_group()
    return {"seconds": seconds, "traffic": traffic, "parameters": alone.parameters, "world": world}


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since the machine started; 0 if the kernel does not count them."""
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


def launch(arguments: list[Any], processes: int) -> list[dict[str, Any]]:
    """Runs `work` in several processes and returns what each measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common["GLOO_SOCKET_IFNAME"] = "lo"
    running = [start(*arguments, RANK=str(rank), **common) for rank in range(processes)]
    return [result(process) for process in running]


def main() -> None:
    given = options(__doc__)
    network, anchors, side, rounds = ("resnet10t", 2, 32, 2) if given.quick else ("resnet50", 8, 112, 12)
    found = launch([network, anchors, side, rounds], 2)
    first = found[0]
    slowest = {
        name: [max(both) for both in zip(*(one["seconds"][name] for one in found), strict=True)]
        for name in first["seconds"]
    }
    world, parameters = first["world"], first["parameters"]
    predicted_bytes = world * 4 * parameters * 2 * (world - 1) / world  # of all processes
    alone = median(first["seconds"]["alone"])
    detail = {
        "anchors_a_process": anchors, "pixels": side, "parameters": parameters,
        "seconds": {name: round(median(values), 4) for name, values in slowest.items()} | {"alone": round(alone, 4)},
        "bytes_predicted": predicted_bytes, "bytes_measured": median(first["traffic"]),
        "all_reduce_share": round(median(slowest["all_reduce"]) / median(slowest["together"]), 4),
    }  # fmt: skip
    # Even without traffic two processes slow each other down: they share memory and caches.
    contention = [both / one for both, one in zip(slowest["both_alone"], first["seconds"]["alone"], strict=True)]
    efficiency = [one / both for one, both in zip(first["seconds"]["alone"], slowest["together"], strict=True)]
    parts = zip(slowest["together"], slowest["both_alone"], slowest["all_reduce"], strict=True)
    overhead = [both / (computing + reduce) for both, computing, reduce in parts]
    quiet = f"{1 / median(contention):.2f} without traffic"
    title, side_by_side = f"2 processes, {network}", "side by side without traffic, and one all-reduce"
    rows = [
        Row(title, "1 process, efficiency", median(efficiency), floor=quiet, rounds=efficiency, detail=detail),
        Row(
            f"2 processes' step, {network}", side_by_side, median(overhead), rounds=overhead, detail=detail,
            floor="below 1.00: DDP sends while it computes",
        ),
    ]  # fmt: skip
    if loopback_bytes():
        sent, formula = median(first["traffic"]) / predicted_bytes, "parameters x 4 x 2(n-1)/n, each process"
        floor = "1.00, and packet headers"
        rows.append(Row(f"bytes of a 2-process step, {network}", formula, sent, floor=floor, detail=detail))
    report(rows, given.json)


if __name__ == "__main__":
    run(main, work)
