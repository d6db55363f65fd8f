"""torchvision's detectors on our weights: the network's features, its pixels, what is frozen, and refusals."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from detection.torchvision_models import use_backbone
from skd_plugins import SkdError, create_model

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def save(network: nn.Module, name: str, folder: Path, **card: Any) -> Path:
    path = folder / f"{name}.test.safetensors"
    save_file(network.state_dict(), path)
    content = {"name": path.stem, "model": name, "model_args": {}, "num_classes": 5, "classes": None}
    path.with_suffix(".json").write_text(json.dumps(content | {"mean": MEAN, "std": STD, "color": "RGB"} | card))
    return path


def network(name: str) -> nn.Module:
    """Its BatchNorm is not that of the start, where residual branches are zero."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.3, 0.6)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval()


def small(**arguments: Any) -> nn.Module:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(backbone, num_classes=4, min_size=64, max_size=64, **arguments)


BUILDERS = {"faster": fasterrcnn_resnet50_fpn, "retinanet": retinanet_resnet50_fpn, "mask": maskrcnn_resnet50_fpn}


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_backbone_is_the_network_and_the_detector_trains(kind: str, tmp_path: Path) -> None:
    model = network("resnet50")
    detector = BUILDERS[kind](weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96)
    assert use_backbone(detector, save(model, "resnet50", tmp_path)) is detector
    body: Any = detector.backbone.body
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    normalised = detector.eval().transform([image])[0].tensors
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(normalised[0], (image - mean) / std)
    expected = model.forward_intermediates(normalised, indices=[1, 2, 3, 4], intermediates_only=True)
    found = list(body(normalised).values())
    for value, other in zip(found, expected[-len(found) :], strict=True):
        assert other.std() > 0.01
        torch.testing.assert_close(value, other)
    assert len(found) == (3 if kind == "retinanet" else 4)
    norms = [part for part in body.modules() if isinstance(part, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    assert len(norms) == 53
    assert {type(part) for part in norms} == {FrozenBatchNorm2d}
    trained = {name.split(".")[0] for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2]), "masks": torch.ones(1, 64, 96)}
    losses = detector.train()([image], [target])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert body.layer2[0].conv1.weight.grad.any()
    assert body.layer1[0].conv1.weight.grad is None


def test_frozen_and_trained_parts_and_weights_of_torchvision_itself(tmp_path: Path) -> None:
    state = resnet18(num_classes=7).state_dict()
    torch.save({"model": {key: value for key, value in state.items() if "fc" not in key}}, tmp_path / "model.pth")
    detector: Any = use_backbone(small(), tmp_path / "model.pth", trainable_layers=5, frozen_norm=False)
    assert detector.transform.image_mean == [0.485, 0.456, 0.406]
    assert all(parameter.requires_grad for parameter in detector.backbone.body.parameters())
    assert type(detector.backbone.body.bn1) is nn.BatchNorm2d
    assert torch.equal(detector.backbone.body.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    use_backbone(detector, tmp_path / "model.pth", trainable_layers=0)
    assert not any(parameter.requires_grad for parameter in detector.backbone.body.parameters())
    assert detector.backbone.fpn.inner_blocks[0][0].weight.requires_grad
    use_backbone(detector, tmp_path / "model.pth", trainable_layers=1)  # its BatchNorm is frozen already
    assert detector.backbone.body.layer4[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("card", "arguments", "options", "message"),
    [
        ({"color": "BGR"}, {}, {}, "was trained on BGR images, but torchvision's detectors take RGB"),
        ({}, {"image_mean": [0.5, 0.5, 0.5]}, {}, f"with mean {MEAN}, but the detector has image_mean [0.5, 0.5, 0.5]"),
        ({}, {}, {"trainable_layers": 6}, "trainable_layers should be 0 to 5, got 6"),
    ],
)
def test_other_pixels_are_refused(
    card: dict[str, Any], arguments: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(network("resnet18"), "resnet18", tmp_path, **card)
    with pytest.raises(SkdError, match=re.escape(message)):
        use_backbone(small(**arguments), path, **options)
    with pytest.raises(SkdError, match="ResNet is not a detector of torchvision with a feature pyramid"):
        use_backbone(resnet18(), path)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    path = save(network("resnet34"), "resnet34", tmp_path)
    detector: Any = small()
    before = detector.backbone.body.conv1.weight.clone()
    with pytest.raises(SkdError, match="unexpected: layer1.2.bn1.bias") as error:
        use_backbone(detector, path)
    assert str(path) in str(error.value)
    assert torch.equal(detector.backbone.body.conv1.weight, before)


@pytest.mark.slow
def test_it_needs_no_detectron2() -> None:
    code = (
        "import sys; sys.modules['detectron2'] = None; from detection.torchvision_models import use_backbone; print(1)"
    )
    folder = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.slow
def test_the_example_trains_and_evaluates(tmp_path: Path) -> None:
    """An image without boxes is left out of the training, and is there in the evaluation."""
    weights = save(network("resnet18"), "resnet18", tmp_path)
    draw = np.random.default_rng(0)
    for half in ("train", "val"):
        (tmp_path / half).mkdir()
        images, boxes = [], []
        for number in range(1, 6):
            Image.fromarray(draw.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / half / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
            if number < 5:
                boxes.append({"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [5, 5, 40, 30]})
                boxes[-1] |= {"area": 1200, "iscrowd": 0}
        categories = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (tmp_path / f"{half}.json").write_text(json.dumps(content))
    script = Path(__file__).parents[1] / "examples" / "torchvision_detector.py"
    command = [sys.executable, str(script), str(weights), str(tmp_path), "2", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in done.stdout
