"""Training on one GPU: images a second, memory, share of the card's peak, and hours for the papers' ImageNet recipes.

Trains with cross-entropy, CS-KD in its three pairings and SD-Dropout on the networks of the ImageNet recipes, with bf16
autocast, channels last, with and without torch.compile. Steps of all methods alternate on synthetic images that are
already on the card, so the ratios to cross-entropy contain no loading. The card's peak is a large bf16 matrix product
measured in the same run. If FFCV is installed, cross-entropy is also trained from a `.beton` file made on the spot, to
see whether the processor keeps up. Nothing is downloaded.

This repository has no results of it yet. One command makes them:

Run: python benchmarks/gpu.py --json benchmarks/results/gpu.json [--networks resnet50] [--anchors 256] [--rounds 10]
     python benchmarks/gpu.py --device cpu --quick      # shows that it runs
"""

import argparse
import gc
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rounds import ROOT, interleaved, photographs
from row import Row, ratio, report
from steps import VARIANTS, Step, make_step
from torch.utils.flop_counter import FlopCounterMode

from skd_plugins import make_loader
from skd_plugins.data.beton.write import write_beton
from skd_plugins.data.datasets.imagenet import DATASET as IMAGENET
from skd_plugins.data.sources import image_folder
from skd_plugins.training.project import recipe_of

NETWORKS = ("resnet50", "resnet101", "resnet152", "resnext101_32x4d")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("ce", {}),
    **{label: variant[:2] for label, variant in VARIANTS.items()},
}
FLOOR = {label: variant[3] for label, variant in VARIANTS.items()}


def wait(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: torch.device, times: int) -> Callable[[], float]:
    """A contestant for `interleaved`: the mean seconds of several calls in a row."""

    def contestant() -> float:
        wait(device)
        begin = time.perf_counter()
        for _ in range(times):
            call()
        wait(device)
        return (time.perf_counter() - begin) / times

    return contestant


def matrix_peak(device: torch.device, side: int) -> float:
    """FLOP/s of a square bf16 matrix product, the most that the card reaches."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = interleaved({"product": timed(lambda: a @ b, device, 3)}, 5, warmup=2)["product"]
    return 2 * side**3 / min(seconds)


def build(network: str, label: str, anchors: int, side: int, device: torch.device, compiled: bool) -> Step:
    """A step with bf16 autocast."""
    step = make_step(network, *METHODS[label], anchors, side, device)
    step.bf16 = True
    if compiled:
        step.task.compile()
    return step


def peak_bytes(make: Callable[[], Step], device: torch.device) -> tuple[Step, int | None]:
    """The step after two runs, and its peak memory; None on a processor, which memory.py measures."""
    if device.type != "cuda":
        step = make()
        step()
        return step, None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step = make()
    step()
    step()
    wait(device)
    return step, torch.cuda.max_memory_allocated(device) - before


def hours(network: str, label: str, images_per_second: float) -> float | None:
    """Hours that one card needs for the paper's ImageNet recipe of this network and method; None if there is none."""
    for path in sorted((ROOT / "recipes").glob("imagenet_*.py")):
        recipe = recipe_of(path.stem)
        if (recipe.model, recipe.method) == (network, METHODS[label][0]):
            return recipe.epochs * IMAGENET.train / images_per_second / 3600
    return None


def rows_of(network: str, anchors: int, side: int, rounds: int, device: torch.device, compiled: bool,
            peak: float) -> list[Row]:  # fmt: skip
    title = f"{network}, compile {'on' if compiled else 'off'}"
    steps, memory = {}, {}
    try:
        for label in METHODS:
            steps[label], memory[label] = peak_bytes(
                lambda label=label: build(network, label, anchors, side, device, compiled), device
            )
        with FlopCounterMode(display=False) as counter:
            build(network, "cross-entropy", anchors, side, device, False)()
        flops = counter.get_total_flops()
        contestants = {label: timed(step, device, 1 if device.type == "cpu" else 5) for label, step in steps.items()}
        seconds = interleaved(contestants, rounds, warmup=2)
    except torch.OutOfMemoryError:
        return [Row(title, "cross-entropy", None, note=f"no memory for {anchors} anchors; use a smaller --anchors")]
    rows = []
    for label in METHODS:
        speed = anchors / median(seconds[label])
        detail = {
            "images_per_second": speed, "peak_bytes": memory[label], "anchors": anchors, "pixels": side,
            "recipe_hours_one_card": hours(network, label, speed),
            # Cross-entropy's FLOPs for every method: CS-KD's second forward pass is a cost, not useful work.
            "share_of_matrix_peak": flops / median(seconds[label]) / peak,
        }  # fmt: skip
        name = f"{label}, {title}"
        if label == "cross-entropy":
            against = "bf16 matrix product of this device"
            rows.append(Row(name, against, detail["share_of_matrix_peak"], detail=detail))
        else:
            ce = seconds["cross-entropy"]
            rows.append(ratio(name, "cross-entropy", seconds[label], ce, floor=FLOOR[label], detail=detail))
        gigabytes = "" if memory[label] is None else f", {memory[label] / 1e9:.1f} GB"
        needed = detail["recipe_hours_one_card"]
        whole = "" if needed is None else f", the recipe {needed:.0f} h on one card"
        print(f"{name}: {speed:,.0f} images/s, {detail['share_of_matrix_peak']:.0%} of peak{gigabytes}{whole}")
    return rows


def from_beton(network: str, anchors: int, side: int, batches: int, device: torch.device, workers: int) -> Row:
    """Cross-entropy fed by our loader, relative to the same steps on images that are already on the device."""
    name, against = f"fed from .beton, {network}", "synthetic images, time of an epoch"
    if importlib.util.find_spec("ffcv") is None:
        return Row(name, against, None, note="FFCV is not installed")
    step = build(network, "cross-entropy", anchors, side, device, False)
    with tempfile.TemporaryDirectory() as root:
        folder = photographs(Path(root) / "train", anchors * batches)
        path = write_beton(image_folder(folder), Path(root) / "train.beton", workers=min(workers, 8))
        loader = make_loader(path, batch_size=anchors, image_size=side, workers=workers, device=device)

        def fed() -> None:
            for input, target in loader:
                step.input, step.target = input, target
                step()

        def synthetic() -> None:
            for _ in range(batches):
                step()

        seconds = interleaved({"fed": timed(fed, device, 1), "synthetic": timed(synthetic, device, 1)}, 3)
    images = anchors * batches
    detail = {"workers": workers, "images_per_second": images / median(seconds["fed"])}
    return ratio(name, against, seconds["fed"], seconds["synthetic"], floor="1.00: the loader keeps up", detail=detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--anchors", type=int, default=256, help="anchors in a step")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", choices=("off", "on", "both"), default="both")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="decoding threads")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --device cpu --quick shows that the script runs")
    device = torch.device(given.device)
    networks, anchors, side, rounds, product, batches = (
        (["resnet10t"], 2, 32, 1, 256, 2)
        if given.quick
        else (given.networks, given.anchors, 224, given.rounds, 8192, 20)
    )
    compiled = {"off": [False], "on": [True], "both": [False, True]}["off" if given.quick else given.compile]
    peak = matrix_peak(device, product)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{name}: {peak / 1e12:.3g} TFLOP/s in a bf16 matrix product")
    rows: list[Row] = []
    for network in networks:
        for one in compiled:
            rows += rows_of(network, anchors, side, rounds, device, one, peak)
            gc.collect()
    rows.append(from_beton(networks[0], anchors, side, batches, device, given.workers))
    for row in rows:
        row.detail |= {"device": name, "matrix_flops_per_second": peak}
    report(rows, given.json)


if __name__ == "__main__":
    main()
