"""The registered backbones: shapes, frozen parts, recomputed activations, refusals."""

import copy
import re
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from detection import TimmResNet
from detection.config import load_config
from skd_plugins import SkdError, create_model

SMALL = {"channels": (8, 16, 24, 32)}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet10t", num_classes=5, **(SMALL | arguments))


def test_features_are_the_networks_own() -> None:
    model = network().eval()
    expected = model.forward_intermediates(IMAGES, indices=[1, 2, 3, 4], intermediates_only=True)
    for norm in ("FrozenBN", "BN"):
        backbone = TimmResNet(copy.deepcopy(model), norm=norm)
        assert backbone.training
        features = backbone.eval()(IMAGES)  # equal: measuring the strides has left BatchNorm's statistics alone
        assert list(features) == ["res2", "res3", "res4", "res5"]
        for value, other in zip(features.values(), expected, strict=True):
            torch.testing.assert_close(value, other)
        shapes = backbone.output_shape()
        assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
            "res2": (8, 4), "res3": (16, 8), "res4": (24, 16), "res5": (32, 32),
        }  # fmt: skip


@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages(freeze_at: int) -> None:
    backbone = TimmResNet(network(), norm="BN", freeze_at=freeze_at)
    for index, name in enumerate(("stem", *backbone.stages)):
        part = getattr(backbone, name)
        frozen = index < freeze_at
        assert all(parameter.requires_grad != frozen for parameter in part.parameters())
        kinds = {type(norm) for norm in part.modules() if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d))}
        assert kinds == {FrozenBatchNorm2d if frozen else nn.BatchNorm2d}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN"])
def test_frozen_stages_keep_the_activation_in_timms_batch_norm(norm: str) -> None:
    model = create_model("skresnet18", num_classes=5).eval()
    expected = model.forward_intermediates(IMAGES, indices=[1, 2, 3, 4], intermediates_only=True)
    features = TimmResNet(copy.deepcopy(model), norm=norm, freeze_at=3).eval()(IMAGES)
    for value, other in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(value, other)


def test_frozen_norm_does_not_move() -> None:
    backbone = TimmResNet(network(), norm="FrozenBN").train()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(value.square().mean() for value in backbone(IMAGES).values()).backward()
    optimizer.step()
    norms = tuple(name for name, part in backbone.named_modules() if isinstance(part, FrozenBatchNorm2d))
    assert len(norms) > 10
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(norms), key


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_recomputed_activations_give_the_same_gradients_and_keep_less(norm: str) -> None:
    gradients, kept = [], []
    for checkpoint in (False, True):
        backbone = TimmResNet(network(), norm=norm, freeze_at=1, checkpoint_activations=checkpoint).train()
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = sum(value.square().mean() for value in backbone(IMAGES).values())
        kept.append(sum(sizes))
        loss.backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.requires_grad})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    assert kept[1] < 0.5 * kept[0]


def test_stages_that_nobody_asks_for_are_left_out() -> None:
    backbone = TimmResNet(network(), out_features=["res2", "res4"])
    assert list(backbone(IMAGES)) == ["res2", "res4"]
    assert not hasattr(backbone, "res5")
    sum(value.mean() for value in backbone(IMAGES).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "settings", "message"),
    [
        ("resnet10t", {"output_stride": 16}, {}, "a detection backbone has"),
        ("resnet10t", SMALL, {"norm": "GN"}, "MODEL.TIMM.NORM should be one of FrozenBN, BN, SyncBN, got 'GN'"),
        ("resnet10t", SMALL, {"out_features": ["res6"]}, "MODEL.TIMM.OUT_FEATURES should be some of res2"),
        ("resnet10t", SMALL, {"freeze_at": 6}, "MODEL.BACKBONE.FREEZE_AT should be 0 to 5, got 6"),
    ],
)
def test_what_can_not_be_a_backbone(
    name: str, arguments: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SkdError, match=re.escape(message)):
        TimmResNet(create_model(name, num_classes=2, **arguments), **settings)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "(C4) makes a res5 of its own, so the network's would be lost"),
        ("MODEL.ROI_HEADS.NAME", "TimmRes5ROIHeads", "(C4) has res5 in the head, so the backbone ends at res4"),
        ("MODEL.RESNETS.RES5_DILATION", "3", "RES5_DILATION should be 1 or 2, got 3"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False,False,False,True]", "DEFORM_ON_PER_STAGE does not reach"),
        ("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "R-50.pkl is of detectron2's own ResNet"),
    ],
)
def test_what_would_be_lost_is_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(SkdError, match=re.escape(message)):
        build_backbone(load_config("digits_demo", [key, value, "MODEL.BACKBONE.NAME", "build_timm_resnet_backbone"]))


@pytest.mark.parametrize(("name", "first"), [("resnet", "res2"), ("resnet_fpn", "p2"), ("resnet_retinanet_fpn", "p2")])
def test_registered(name: str, first: str) -> None:
    channels = ["MODEL.TIMM.ARGS.channels", "[8, 16, 24, 32]", "MODEL.FPN.OUT_CHANNELS", "16"]
    cfg = load_config("digits_demo", [*channels, "MODEL.BACKBONE.NAME", f"build_timm_{name}_backbone"])
    backbone = build_backbone(cfg)
    features = backbone(IMAGES)
    assert next(iter(features)) == first
    assert len(features) == {"resnet": 4, "resnet_fpn": 5, "resnet_retinanet_fpn": 6}[name]
    for key, shape in backbone.output_shape().items():
        size = max(64 // shape.stride, 1)
        assert features[key].shape == (2, shape.channels, size, size)
    if name != "resnet":
        cfg.MODEL.TIMM.OUT_FEATURES = ["res3", "res4"]
        with pytest.raises(SkdError, match="the feature pyramid needs res2; add it to MODEL.TIMM.OUT_FEATURES"):
            build_backbone(cfg)
        cfg.MODEL.RESNETS.RES5_DILATION = 2
        with pytest.raises(SkdError, match="a feature pyramid needs res5 at stride 32"):
            build_backbone(cfg)
        cfg.MODEL.RESNETS.RES5_DILATION = 1
    with pytest.raises(SkdError, match="takes 3 channels, but MODEL.PIXEL_MEAN has 1"):
        build_backbone(cfg, ShapeSpec(channels=1))
