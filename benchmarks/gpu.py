"""Training on one GPU: images a second, memory, share of the card's peak, and the costs around a step.

On synthetic images on the card, bf16 autocast, channels last, with and without torch.compile: a step of cross-entropy,
CS-KD in its three pairings and SD-Dropout on the networks of the ImageNet recipes, and that of timm's train.py
(`timm.task.ClassificationTask`). Steps of all methods alternate. The card's peak is a large bf16 matrix product of the
same run. Then epochs of our training loop, whose last batch is smaller, from a `.beton` file made on the spot, in turn
with a bare loop, with timm's task on the same loader, and with steps on images that are already on the card; the time
that a checkpoint stops the training; and a detector's iteration against detectron2's own ResNet. Nothing is downloaded.

The parts come in the order of their worth. One begins only if its time on an H100, which is a guess (`Part.seconds`),
fits into --minutes; the rest are rows that say so. Rows are written to --json after each part.

Nothing has been measured on a GPU yet. One command does it:

Run: python benchmarks/gpu.py --json benchmarks/results/gpu.json [--networks resnet50] [--methods SD-Dropout]
     python benchmarks/gpu.py --device cpu --quick      # shows that it runs
"""

import argparse
import contextlib
import gc
import io
import os
import runpy
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rounds import ROOT, interleaved, photographs
from row import Row, ratio, report, write
from steps import VARIANTS, Step, make_step
from timm.task import ClassificationTask
from torch.utils.flop_counter import FlopCounterMode

from skd_plugins import Recipe, create_model, make_loader
from skd_plugins.data.beton.file import beton_available
from skd_plugins.data.beton.write import write_beton
from skd_plugins.data.datasets.imagenet import DATASET as IMAGENET
from skd_plugins.data.sources import image_folder
from skd_plugins.training.engine import Run
from skd_plugins.training.project import recipe_of

NETWORKS = ("resnet50", "resnet152", "resnext101_32x4d", "resnet101")
CE, TIMM = "cross-entropy", "timm's task"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    CE: ("ce", {}),
    **{label: variant[:2] for label, variant in VARIANTS.items()},
}
FLOOR = {label: variant[3] for label, variant in VARIANTS.items()}
TARGETS = {"SD-Dropout": 1.02, "CS-KD bank": 1.02}
COMPILED = (CE, "SD-Dropout", "CS-KD bank")  # a compilation takes most of a minute


@dataclass
class Settings:
    """How much is measured, and where."""

    device: torch.device
    anchors: int
    side: int
    rounds: int
    labels: tuple[str, ...]
    workers: int
    batches: int  # full ones of an epoch from .beton
    peak: float  # FLOP/s
    quick: bool


@dataclass
class Part:
    """Something to measure, and the seconds that it should take on an H100."""

    name: str
    seconds: float
    rows: Callable[[], list[Row]]


def wait(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: torch.device, times: int = 1) -> Callable[[], float]:
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


def build(network: str, label: str, how: Settings, compiled: bool, classes: int = 1000) -> Step:
    """A step with bf16 autocast, of a method or of timm's task."""
    step = make_step(network, *METHODS.get(label, METHODS[CE]), how.anchors, how.side, how.device, classes)
    if label == TIMM:
        step.task = ClassificationTask(step.task.method.model, device=how.device, verbose=False)
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


def step_rows(network: str, how: Settings, compiled: bool) -> list[Row]:
    """Steps on images that are on the card."""
    title = f"{network}, compile {'on' if compiled else 'off'}"
    labels = [label for label in how.labels if not compiled or label in COMPILED]
    steps, memory = {}, {}
    for label in (*labels, TIMM):
        steps[label], memory[label] = peak_bytes(lambda label=label: build(network, label, how, compiled), how.device)
    with FlopCounterMode(display=False) as counter:
        build(network, CE, how, False)()
    flops = counter.get_total_flops()
    times = 1 if how.device.type == "cpu" else 5
    seconds = interleaved(
        {label: timed(step, how.device, times) for label, step in steps.items()}, how.rounds, warmup=2
    )
    rows = []
    for label in labels:
        speed = how.anchors / median(seconds[label])
        detail = {
            "images_per_second": speed, "peak_bytes": memory[label], "anchors": how.anchors, "pixels": how.side,
            "recipe_hours_one_card": hours(network, label, speed),
            # Cross-entropy's FLOPs for every method: CS-KD's second forward pass is a cost, not useful work.
            "share_of_matrix_peak": flops / median(seconds[label]) / how.peak,
        }  # fmt: skip
        name = f"{label}, {title}"
        if label == CE:
            rows.append(Row(name, "bf16 matrix product", detail["share_of_matrix_peak"], detail=detail))
            rows.append(ratio(name, TIMM, seconds[CE], seconds[TIMM], target=1.03, sense="<=", floor="1.00"))
        else:
            goal = {"target": TARGETS[label], "sense": "<="} if label in TARGETS else {}
            rows.append(ratio(name, CE, seconds[label], seconds[CE], floor=FLOOR[label], detail=detail, **goal))
        gigabytes = "" if memory[label] is None else f", {memory[label] / 1e9:.1f} GB"
        needed = detail["recipe_hours_one_card"]
        whole = "" if needed is None else f", the recipe {needed:.0f} h on one card"
        print(f"{name}: {speed:,.0f} images/s, {detail['share_of_matrix_peak']:.0%} of peak{gigabytes}{whole}")
    return rows


def bare_epoch(network: str, loader: Any, how: Settings, compiled: bool) -> Callable[[], None]:
    """Plain PyTorch on the loader's batches."""
    model: Any = create_model(network, num_classes=10).to(how.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def epoch() -> None:
        for input, target in loader:
            with torch.autocast(how.device.type, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(forward(input), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def loop_rows(network: str, how: Settings, compiled: bool) -> list[Row]:
    """Epochs of our training loop from a `.beton` file, with a last batch of half the size, and its checkpoints."""
    if not beton_available():
        raise RuntimeError("FFCV is not installed, whose library reads .beton files")
    images = how.anchors * how.batches + how.anchors // 2
    recipe = Recipe(
        name="bench.gpu", model=network, num_classes=10, epochs=1000, batch_size=how.anchors, image_size=how.side,
        lr=1e-3, milestones=(), precision="bf16", compile=compiled, workers=how.workers, log_every=10**6, trackers=(),
        save_minutes=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        data = Path(root) / "data"
        for half, count in (("train", images), ("val", 10)):
            source = image_folder(photographs(Path(root) / half, count))
            write_beton(source, data / f"{half}.beton", workers=min(how.workers, 16))
        loader = make_loader(
            data / "train.beton", batch_size=how.anchors, image_size=how.side, workers=how.workers, device=how.device
        )
        run = Run(recipe, str(data), Path(root) / "run", False)
        on_card = build(network, CE, how, compiled, classes=10)

        def without_loader() -> None:
            for _ in range(how.batches):
                on_card()

        contestants = {"ours": run.train_epoch, "on the card": without_loader}
        if not compiled:  # which would compile for minutes
            timm = build(network, TIMM, how, False, classes=10)

            def timm_epoch() -> None:
                for input, target in loader:
                    timm.input, timm.target = input, target
                    timm()

            contestants |= {"bare": bare_epoch(network, loader, how, compiled), TIMM: timm_epoch}
        # Two epochs before the first that counts: torch may change a compiled graph after the smaller last batch.
        seconds = interleaved(
            {name: timed(epoch, how.device) for name, epoch in contestants.items()}, max(how.rounds // 3, 1), warmup=2
        )
        saves = [timed(run.save, how.device)() for _ in range(3)]
        run.finish()
    title = f"training loop, {network}, compile {'on' if compiled else 'off'}"
    whole = [second * images / (how.anchors * how.batches) for second in seconds["on the card"]]  # of as many images
    detail = {"images": images, "anchors": how.anchors, "workers": how.workers,
              "images_per_second": {name: images / median(values) for name, values in seconds.items()}}  # fmt: skip
    detail["images_per_second"]["on the card"] = images / median(whole)
    floor = "1.00: the loader keeps up, and a batch of half the size takes half the time"
    rows = [ratio(title, "steps on images on the card", seconds["ours"], whole, floor=floor, detail=detail)]
    if not compiled:
        goal: dict[str, Any] = {"target": 1.03, "sense": "<=", "floor": "1.00"}
        rows.append(ratio(title, "a bare PyTorch loop, same loader", seconds["ours"], seconds["bare"], **goal))
        rows.append(ratio(title, "timm's task, same loader", seconds["ours"], seconds[TIMM], **goal))
        stall = {"seconds": saves}
        rows.append(Row(f"checkpoint, {network}", "the training stands still", median(saves), unit="s", detail=stall))
    return rows


def detector_rows(how: Settings) -> list[Row]:
    """Faster R-CNN's iteration with our backbone and with detectron2's."""
    compare = runpy.run_path(str(ROOT / "benchmarks" / "detection.py"))["compare"]  # it needs detectron2
    return [compare(50, 1 if how.quick else 2, 64 if how.quick else 800, how.rounds, how.device.type)]


def parts_of(networks: list[str], how: Settings, compile: str) -> list[Part]:
    """What to measure, the most valuable first."""
    eager, compiled = compile != "on", compile != "off"
    first, *others = networks
    parts = []
    if eager:
        parts.append(Part(f"steps, {first}", 30, lambda: step_rows(first, how, False)))
        parts.append(Part(f"training loop, {first}", 50, lambda: loop_rows(first, how, False)))
    if compiled:
        parts.append(Part(f"steps, {first}, compiled", 120, lambda: step_rows(first, how, True)))
        parts.append(Part(f"training loop, {first}, compiled", 100, lambda: loop_rows(first, how, True)))
    parts.append(Part("detector", 40, lambda: detector_rows(how)))
    for one in (False,) * eager + (True,) * compiled:
        for other in others:
            name = f"steps, {other}{', compiled' * one}"
            parts.append(Part(name, 200 if one else 40, lambda other=other, one=one: step_rows(other, how, one)))
    return parts


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="beside cross-entropy")
    parser.add_argument("--anchors", type=int, default=256, help="anchors in a step")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", choices=("off", "on", "both"), help="default: both; with --quick, off")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="decoding threads")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins that would end later")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --device cpu --quick shows that the script runs")
    device = torch.device(given.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    labels = tuple(label for label in METHODS if label == CE or label in given.methods)
    peak = matrix_peak(device, 256 if given.quick else 8192)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{name}: {peak / 1e12:.3g} TFLOP/s in a bf16 matrix product")
    size = (4, 32, 1) if given.quick else (given.anchors, 224, given.rounds)
    how = Settings(device, *size, labels, given.workers, 2 if given.quick else 12, peak, given.quick)
    networks = ["resnet10t"] if given.quick else list(given.networks)

    rows: list[Row] = []
    for part in parts_of(networks, how, given.compile or ("off" if given.quick else "both")):
        left = 60 * given.minutes - (time.monotonic() - started)
        begin = time.monotonic()
        try:
            if left < part.seconds:
                raise TimeoutError(
                    f"{max(left, 0):.0f} s are left, it takes about {part.seconds:g}; give more --minutes"
                )
            new = part.rows()
        except Exception as error:  # one part must not lose the others' time on the card
            if not isinstance(error, TimeoutError):
                traceback.print_exc()
            new = [Row(part.name, "", None, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
        for row in new:
            row.detail |= {"device": name, "matrix_flops_per_second": peak, "part_seconds": time.monotonic() - begin}
        rows += new
        write(rows, given.json)
        gc.collect()
    report(rows, given.json)


if __name__ == "__main__":
    main()
