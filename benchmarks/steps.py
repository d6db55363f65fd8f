"""The cost of each method's training step (forward, backward, optimizer), relative to cross-entropy's.

All have the same anchors, so the batch of CS-KD's `sampled` has twice as many images. For methods with more passes the
floor is counted from `Method.passes` and the measured cost of a step, of a forward pass without gradient, and of the
optimizer. A method's own convolutions (BYOT's branches) are counted in FLOPs, at cross-entropy's FLOPs per second.

Run: python benchmarks/steps.py [--quick] [--json FILE]
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rounds import interleaved, options
from row import Row, ratio, report
from torch.utils.flop_counter import FlopCounterMode

from skd_plugins import create_model, get_method, list_methods
from skd_plugins.methods.task import MethodTask, create_task

CLASSES = 1000
VARIANTS: dict[str, tuple[str, dict[str, Any], float, str]] = {  # label: method, arguments, target, floor
    "SD-Dropout": ("sd_dropout", {}, 1.02, "1.00: no pass is added"),
    "CS-KD sampled": ("cs_kd", {"pairing": "sampled"}, 1.35, "1.33: one more forward pass"),
    "CS-KD bank": ("cs_kd", {"pairing": "bank"}, 1.03, "1.00: no pass is added"),
    "CS-KD batch": ("cs_kd", {"pairing": "batch"}, 1.03, "1.00: no pass is added"),
}
# Notes for missed targets.
TRIED = {
    "SD-Dropout": "its head and losses take under 1 % of a step by themselves (profile); runs differ by 2 %",
    "CS-KD batch": "no pass is added; runs differ by 2 %",
    "CS-KD bank": "no pass is added, the bank is a table in memory; runs differ by 2 %",
    "CS-KD sampled": "its pairs' forward pass is a third of a step, which nothing hides on a CPU; runs differ by 5 %",
    "byot": "its branches' small convolutions reach fewer FLOPs per second than the network's, as the floor assumes",
}


@dataclass
class Step:
    """A task, its optimizer and one batch. A call is one optimizer step."""

    task: MethodTask
    optimizer: torch.optim.Optimizer
    input: torch.Tensor
    target: torch.Tensor
    bf16: bool = False

    def __call__(self) -> None:
        with torch.autocast(self.input.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.task(self.input, self.target)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self) -> None:
        """The network's forward pass without gradient in training mode, like that of CS-KD's pairs."""
        with torch.no_grad():
            self.task.method.model(self.input)

    def update(self) -> Callable[[], None]:
        """The optimizer alone."""
        self.task(self.input, self.target)["loss"].backward()
        gradients = {p: p.grad.clone() for p in self.task.method.parameters() if p.grad is not None}

        def step() -> None:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
            self.optimizer.step()
            self.optimizer.zero_grad()

        return step

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.task.method.parameters())


def make_step(
    network: str, method: str, arguments: dict[str, Any], anchors: int, side: int, device: torch.device | str = "cpu",
    classes: int = CLASSES,
) -> Step:  # fmt: skip
    """A step on random pixels, two images of each class; SGD with momentum and weight decay, channels last."""
    torch.manual_seed(0)
    model: Any = create_model(network, num_classes=classes, classifier=get_method(method).classifier).to(device)
    model.to(memory_format=torch.channels_last)
    if method == "kd":
        teacher: Any = create_model(network, num_classes=classes)
        arguments = {"teacher": teacher.to(memory_format=torch.channels_last)}
    task = create_task(method, model, verbose=False, **arguments).train()
    task.method.begin_epoch(1, 2)
    optimizer = torch.optim.SGD(task.method.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    segments = len(task.method.segments)
    input = torch.randn(segments * anchors, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    target = (torch.arange(anchors, device=device) // 2 % classes).repeat(segments)
    return Step(task, optimizer, input, target)


def against_ce(network: str, labels: list[str], anchors: int, side: int, rounds: int) -> list[Row]:
    """Rows of the papers' methods."""
    steps = {"ce": make_step(network, "ce", {}, anchors, side)}
    steps |= {label: make_step(network, *VARIANTS[label][:2], anchors, side) for label in labels}
    seconds = interleaved(steps, rounds)
    size = {"anchors": anchors, "pixels": side, "ce_seconds": round(median(seconds["ce"]), 4)}
    return [
        ratio(
            f"{label} step, {network}", "cross-entropy step", seconds[label], seconds["ce"],
            target=VARIANTS[label][2], sense="<=", floor=VARIANTS[label][3], detail=size,
            note=TRIED.get(label, ""),
        )
        for label in labels
    ]  # fmt: skip


def flops(call: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def against_floor(network: str, anchors: int, side: int, rounds: int) -> list[Row]:
    """Rows of every other registered method, relative to its own counted floor."""
    others = [name for name in list_methods() if name not in ("ce", "sd_dropout", "cs_kd")]
    assert others, "no method is registered"
    ce = make_step(network, "ce", {}, anchors, side)
    steps = {name: make_step(network, name, {}, anchors, side) for name in others}
    counted = {name: flops(step) for name, step in (steps | {"ce": ce, "forward": ce.forward}).items()}
    seconds = interleaved({"ce": ce, "forward": ce.forward, "update": ce.update(), **steps}, rounds)
    rows = []
    for name, step in steps.items():
        with_gradient, without = step.task.method.passes
        own_flops = max(counted[name] - with_gradient * counted["ce"] - without * counted["forward"], 0)
        updates = step.parameters / ce.parameters
        floors = [
            with_gradient * (full - update) + without * forward + updates * update
            + own_flops / counted["ce"] * (full - update)
            for full, forward, update in zip(seconds["ce"], seconds["forward"], seconds["update"], strict=True)
        ]  # fmt: skip
        over_ce = median(mine / full for mine, full in zip(seconds[name], seconds["ce"], strict=True))
        floor_ratio = median(floor / full for floor, full in zip(floors, seconds["ce"], strict=True))
        rows.append(
            ratio(
                f"{name} step, {network}", "its counted floor", seconds[name], floors, target=1.05, sense="<=",
                floor=f"1.00 ({floor_ratio:.2f} x cross-entropy)", note=TRIED.get(name, ""),
                detail={
                    "anchors": anchors, "pixels": side, "over_ce": round(over_ce, 3),
                    "passes": [with_gradient, without],
                    "own_flops_over_ce": round(own_flops / counted["ce"], 4),
                    "forward_over_ce": round(median(seconds["forward"]) / median(seconds["ce"]), 3),
                    "update_over_ce": round(median(seconds["update"]) / median(seconds["ce"]), 3),
                },
            )
        )  # fmt: skip
    return rows


def main() -> None:
    given = options(__doc__)
    if given.quick:
        rows = against_ce("resnet10t", list(VARIANTS), 2, 32, 2) + against_floor("resnet10t", 2, 32, 2)
    else:
        rows = against_ce("resnet50", list(VARIANTS), 16, 112, 31)
        rows += against_ce("resnet152", ["SD-Dropout"], 8, 112, 25)
        rows += against_floor("resnet18", 16, 112, 12)
    report(rows, given.json)


if __name__ == "__main__":
    main()
