"""A detection training step with our registered backbone against detectron2's own ResNet with the same weights.

Faster R-CNN with FPN, BatchNorm frozen, as our configs; SGD step included. Both detectors have the same weights, images
and random numbers, and their losses are compared before anything is timed.

Run: python benchmarks/detection.py [--quick] [--json FILE]
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

from rounds import ROOT, interleaved, options
from row import Row, ratio, report

sys.path.insert(0, str(ROOT))  # the package `detection`, before this file of the same name
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from detection.config import load_config
from detection.weights import take_from_card
from skd_plugins import create_model
from skd_plugins.weights.export import detectron2_state_dict


def detectors(depth: int, device: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and detectron2's, with the same random weights."""
    torch.manual_seed(0)
    network = create_model(f"resnet{depth}", num_classes=10)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # frozen ones do not keep random weights' activations small
            part.weight.data.fill_(0.3)
    weights = network.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, f"{folder}/weights.pth")
        cfg = load_config("base_faster_rcnn.yaml", ["MODEL.DEVICE", device])
        cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = f"resnet{depth}", f"{folder}/weights.pth"
        take_from_card(cfg, None)  # ImageNet's pre-processing
        ours = build_model(cfg).train()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.NORM = depth, False, "FrozenBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    native = build_model(cfg).train()
    converted = {f"backbone.bottom_up.{key}": value for key, value in detectron2_state_dict(weights).items()}
    heads = {key: value for key, value in ours.state_dict().items() if ".bottom_up." not in key}
    backbone = {key: value for key, value in converted.items() if ".linear." not in key}
    native.load_state_dict(backbone | heads, strict=True)
    return ours, native


def batch(images: int, side: int) -> list[dict[str, Any]]:
    """Random pictures with four boxes each."""
    draw = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(images):
        corners = torch.rand(4, 2, generator=draw) * side / 2
        truth = Instances((side, side))
        truth.gt_boxes = Boxes(torch.cat([corners, corners + side / 4], dim=1))
        truth.gt_classes = torch.arange(4)
        pixels = torch.randint(0, 256, (3, side, side), generator=draw, dtype=torch.uint8)
        inputs.append({"image": pixels, "instances": truth, "height": side, "width": side})
    return inputs


def step_of(model: torch.nn.Module, inputs: list[dict[str, Any]]) -> Callable[[], None]:
    """One training iteration."""
    from detectron2.utils.events import EventStorage

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step() -> None:
        torch.manual_seed(1)  # the same proposals are sampled
        with EventStorage():
            losses = model(inputs)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step


def losses_of(model: torch.nn.Module, inputs: list[dict[str, Any]]) -> dict[str, float]:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(1)
    with EventStorage(), torch.no_grad():
        return {name: float(value) for name, value in model(inputs).items()}


def compare(depth: int, images: int, side: int, rounds: int, device: str = "cpu") -> Row:
    ours, native = detectors(depth, device)
    inputs = batch(images, side)
    torch.testing.assert_close(losses_of(ours, inputs), losses_of(native, inputs), rtol=1e-3, atol=1e-5)
    seconds = interleaved({"ours": step_of(ours, inputs), "native": step_of(native, inputs)}, rounds)
    return ratio(
        f"detection step, R{depth}-FPN", "detectron2's own ResNet", seconds["ours"], seconds["native"], target=1.02,
        sense="<=", floor="1.00",
        detail={"images": images, "pixels": side, "native_seconds": round(median(seconds["native"]), 3)},
    )  # fmt: skip


def main() -> None:
    given = options(__doc__)
    logging.disable(logging.WARNING)
    sizes = [(50, 1, 64, 1)] if given.quick else [(50, 2, 256, 12), (152, 2, 256, 8)]
    report([compare(*size) for size in sizes], given.json)


if __name__ == "__main__":
    main()
