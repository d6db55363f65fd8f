"""Export for detectron2's native ResNet: same features, same logits, and the settings that must go along."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
import zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from safetensors.torch import save_file
from torch import nn

from detection import add_skd_config
from detection.config import load_config
from detection.weights import take_from_card, wanted_weights
from skd_plugins import create_model
from skd_plugins.cli import main
from skd_plugins.common.errors import SkdError
from skd_plugins.weights import export_detectron2
from skd_plugins.weights.export import detectron2_settings, detectron2_state_dict

NETWORKS = [
    "resnet18", "resnet34", "torchvision/resnet50", "resnet152", "resnext50_32x4d", "torchvision/resnext101_32x8d",
]  # fmt: skip
CLASSES = 7


def trained_looking(name: str, **arguments: Any) -> nn.Module:
    """A network whose BatchNorm statistics and weights are not what they are at the start."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=CLASSES, **arguments)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval()


def card_of(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "name": f"{name.rpartition('/')[2]}.test", "model": name, "model_args": arguments, "num_classes": CLASSES,
        "classes": None, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "color": "RGB",
    }  # fmt: skip


def save(model: nn.Module, card: dict[str, Any], folder: Path) -> Path:
    """As `export_weights` leaves them."""
    path = folder / f"{card['name']}.safetensors"
    save_file(model.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def native_cfg(path: Path) -> CfgNode:
    """A user's own detectron2 config: only the YAML that was written beside the weights is merged."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path.with_suffix(".detectron2.yaml")))
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.mark.parametrize("name", NETWORKS)
def test_registered_and_native_backbone_have_equal_features(name: str, tmp_path: Path) -> None:
    model, card = trained_looking(name), card_of(name)
    path = export_detectron2(save(model, card, tmp_path), tmp_path / "out")
    cfg = native_cfg(path)
    native = build_backbone(cfg).eval()
    wrapped = nn.ModuleDict({"backbone": native})  # in a detector the keys have this prefix
    DetectionCheckpointer(wrapped).load(str(path))

    add_skd_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = name, str(path.parent.parent / f"{card['name']}.safetensors")
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS = "build_timm_resnet_backbone", ""
    registered = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    assert registered.output_shape() == native.output_shape()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, features = native(images), registered(images)
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for key, value in features.items():
        assert value.std() > 0.01, "the comparison would be of nothing"
        assert relative(value, expected[key]) < 1e-4, key
    frozen = sum(p.numel() for p in native.parameters() if not p.requires_grad)
    assert sum(p.numel() for p in registered.parameters() if not p.requires_grad) == frozen


@pytest.mark.parametrize("kind", ["C4", "DC5", "RETINANET"])
def test_detectron2s_c4_dc5_and_retinanet_have_equal_features(kind: str, tmp_path: Path) -> None:
    """Its model zoo's files, once with its own ResNet and converted weights, once with the network in its place."""
    card = card_of("resnet50")
    weights = save(trained_looking("resnet50"), card, tmp_path)
    path = export_detectron2(weights, tmp_path / "out")
    file = tmp_path / "zoo.yaml"
    file.write_text(getattr(zoo, kind))
    small = ["MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
    cfg = load_config(str(file), small)
    cfg.merge_from_file(str(path.with_suffix(".detectron2.yaml")))
    native = build_model(cfg).eval()
    DetectionCheckpointer(native).load(str(path))
    cfg = load_config(str(file), ["MODEL.TIMM.WEIGHTS", str(weights), *small])
    take_from_card(cfg, wanted_weights(cfg))
    ours = build_model(cfg).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    def features(model: nn.Module) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            found: dict[str, torch.Tensor] = model.backbone(images)
            return found | ({"head": model.roi_heads.res5(found["res4"])} if kind == "C4" else {})

    if kind == "DC5":  # the one deviation, see create_classifier
        assert native.backbone.res5[0].conv2.dilation == (2, 2)
        native.backbone.res5[0].conv2.dilation = native.backbone.res5[0].conv2.padding = (1, 1)
    if kind == "RETINANET":
        fpn = {key: value for key, value in native.backbone.state_dict().items() if "bottom_up" not in key}
        assert len(fpn) == 16
        ours.backbone.load_state_dict(ours.backbone.state_dict() | fpn)
    expected, found = features(native), features(ours)
    names = {"C4": ["res4", "head"], "DC5": ["res5"], "RETINANET": ["p3", "p4", "p5", "p6", "p7"]}[kind]
    assert sorted(found) == sorted(expected) == sorted(names)
    for key, value in found.items():
        assert value.std() > 0.01
        assert relative(value, expected[key]) < 1e-4, key
    assert found[names[-1]].shape[1:] == {"C4": (2048, 2, 3), "DC5": (2048, 4, 6), "RETINANET": (256, 1, 1)}[kind]


@pytest.mark.parametrize("name", ["resnet50", "torchvision/resnet50"])
def test_dilated_features_are_those_of_the_network_at_every_second_pixel(name: str, tmp_path: Path) -> None:
    weights = save(trained_looking(name), card_of(name), tmp_path)
    found = []
    images = torch.randn(1, 3, 96, 64)
    for dilation in ("1", "2"):
        options = ["MODEL.TIMM.WEIGHTS", str(weights), "MODEL.RESNETS.RES5_DILATION", dilation, "MODEL.BACKBONE.NAME",
                   "build_timm_resnet_backbone", "MODEL.TIMM.NAME", "", "MODEL.TIMM.NORM", "FrozenBN"]  # fmt: skip
        cfg = load_config("digits_demo", options)
        take_from_card(cfg, wanted_weights(cfg))
        backbone = build_backbone(cfg).eval()
        assert backbone.output_shape()["res5"].stride == 32 // int(dilation)
        with torch.no_grad():
            found.append(backbone(images)["res5"])
    assert found[1].shape == (1, 2048, 6, 4)
    assert relative(found[1][..., ::2, ::2], found[0]) < 1e-5


def test_logits_survive_the_trip() -> None:
    model = trained_looking("resnet50")
    stages = ResNet.make_default_stages(50, BottleneckBlock, stride_in_1x1=False, norm="BN")
    native = ResNet(BasicStem(norm="BN"), stages, num_classes=CLASSES, out_features=["res5", "linear"]).eval()
    result = native.load_state_dict(detectron2_state_dict(model.state_dict()), strict=False)
    assert result.unexpected_keys == []
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative(native(images)["linear"], model(images)) < 1e-4


def test_settings_are_complete_and_printed_ones_are_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_of("resnext50_32x4d")
    path = save(trained_looking("resnext50_32x4d"), card, tmp_path)
    main(["export", str(path), "--out", str(tmp_path / "out"), "--format", "detectron2"])
    pkl = tmp_path / "out" / "resnext50_32x4d.test.pkl"
    text = pkl.with_suffix(".detectron2.yaml").read_text()
    assert capsys.readouterr().out == f"{pkl}\n\n{text}"
    assert yaml.safe_load(text) == {
        "MODEL": {
            "WEIGHTS": str(pkl),
            "RESNETS": {
                "DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4, "STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256,
                "STRIDE_IN_1X1": False, "NORM": "FrozenBN",
            },
            "PIXEL_MEAN": [102.0, 127.5, 153.0],
            "PIXEL_STD": [51.0, 63.75, 76.5],
        },
        "INPUT": {"FORMAT": "RGB"},
    }  # fmt: skip
    with pkl.open("rb") as file:
        content = pickle.load(file)
    assert (content["__author__"], content["matching_heuristics"]) == ("skd_plugins", True)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("resnet50c", {}, "no place for"),  # a deep stem
        ("seresnet50", {}, "detectron2's ResNet lacks: Sigmoid"),
        ("resnet50", {"output_stride": 16}, "detectron2's ResNet can't be resnet50 with {'output_stride': 16}"),
        ("resnet26", {}, "detectron2's ResNet can't be resnet26"),
    ],
)
def test_other_networks_are_refused(name: str, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(SkdError, match=re.escape(reason)):
        detectron2_settings(create_model(name, num_classes=2, **arguments), card_of(name, **arguments))
