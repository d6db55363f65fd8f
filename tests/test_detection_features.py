"""Networks of timm that are no ResNets as backbones: the same features as the whole network's, frozen parts, pixels."""

import copy
import json
import re
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import zoo
from detectron2.modeling import build_backbone
from test_train_net import SMALL, iterations
from timm.layers import FrozenBatchNormAct2d
from torch import Tensor, nn

from detection import train_net as script
from detection.backbone import is_resnet
from detection.config import load_config
from detection.timm_features import STRIDES, TimmFeatures
from detection.weights import take_from_card, wanted_weights
from skd_plugins import SkdError, create_model

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
# Small ones of each family; the modules whose outputs are the stages, found by hand in timm's files.
ENDS = {
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "stages.3"],
    "efficientnet_lite0": ["blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "regnetx_002": ["s1", "s2", "s3", "s4"],
    "mobilenetv3_small_050": ["blocks.0", "blocks.1", "blocks.3", "blocks.5"],
}
BATCH_NORM = [name for name in ENDS if name != "convnext_atto"]


def network(name: str) -> Any:
    """With statistics that are no one's defaults, so that a lost BatchNorm would be seen."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    return model.eval()


def outputs(model: nn.Module, modules: list[str]) -> list[Tensor]:
    """What the modules give in the whole network's forward pass."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, value, name=name: found.update({name: value}))
        for name in modules
    ]
    with torch.no_grad():
        model(IMAGES)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in modules]


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("name", ENDS)
def test_features_are_those_of_the_whole_network_and_of_timm(name: str, norm: str) -> None:
    model = network(name)
    expected = outputs(model, ENDS[name])
    only = timm.create_model(name, features_only=True, out_indices=tuple(range(-4, 0)), feature_cls="hook").eval()
    assert only.feature_info.reduction() == [4, 8, 16, 32]
    backbone = TimmFeatures(copy.deepcopy(model), norm=norm)
    assert backbone.training
    features = backbone.eval()(IMAGES)
    assert list(features) == list(STRIDES)
    for (stage, value), other in zip(features.items(), expected, strict=True):
        tolerance = 1e-5 * float(other.abs().max()) if norm == "FrozenBN" else 0.0  # frozen, it is computed another way
        torch.testing.assert_close(value, other, rtol=0, atol=tolerance)
        shape = backbone.output_shape()[stage]
        assert value.shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert [shape.channels for shape in backbone.output_shape().values()] == only.feature_info.channels()
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("name", BATCH_NORM)
def test_frozen_norm_is_only_where_there_is_batch_norm(name: str) -> None:
    plain = network("convnext_atto").state_dict()
    backbone = TimmFeatures(network("convnext_atto"), norm="FrozenBN")
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert {key.removeprefix("network.") for key in backbone.state_dict()} < set(plain)
    backbone = TimmFeatures(network(name), norm="FrozenBN").train()
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in backbone.modules())
    frozen = [part for part in backbone.modules() if isinstance(part, FrozenBatchNormAct2d)]
    assert len(frozen) > 10
    before = copy.deepcopy(frozen[3].state_dict())
    backbone(IMAGES)
    assert all(torch.equal(value, before[key]) for key, value in frozen[3].state_dict().items())


# The first parameter that is trained after each number of frozen stages, found by hand.
FIRST = {
    "convnext_atto": ["stem.0.", "stages.0.", "stages.1.", "stages.2.", "stages.3."],
    "efficientnet_lite0": ["conv_stem.", "blocks.0.", "blocks.2.", "blocks.3.", "blocks.5."],
    "regnetx_002": ["stem.", "s1.", "s2.", "s3.", "s4."],
}


@pytest.mark.parametrize("name", FIRST)
def test_frozen_stages_and_no_parameter_without_gradient(name: str) -> None:
    for freeze_at, first in enumerate([*FIRST[name], None]):
        backbone = TimmFeatures(network(name), norm="BN", freeze_at=freeze_at).train()
        sum(value.square().mean() for value in backbone(IMAGES).values()).backward() if first else None
        trained = [key for key, value in backbone.named_parameters() if value.requires_grad]
        assert all(value.grad is not None for value in backbone.parameters() if value.requires_grad), "DDP would stop"
        if first is None:
            assert trained == []
            continue
        assert trained[0].startswith(f"network.{first}")
        keys = [key for key, _ in backbone.named_parameters()]
        assert keys[keys.index(trained[0]) :] == trained, "all that follow"
        for key, part in backbone.named_modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                assert part.weight.requires_grad, f"{key} moves in a frozen stage"


def test_stages_that_nobody_asks_for_are_left_out() -> None:
    backbone = TimmFeatures(network("convnext_atto"), out_features=["res3", "res2"])
    assert list(backbone(IMAGES)) == ["res2", "res3"]
    assert "network.stages.2" not in str(backbone.state_dict().keys())
    assert backbone.size_divisibility == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/densenet121", "DenseNet gives no features of its stages, so it can't be a backbone"),
        ("vit_tiny_patch16_224", "VisionTransformer has no feature of stride 4 for res2"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer does not take images of 64 pixels"),
    ],
)
def test_what_can_not_be_a_backbone(name: str, message: str) -> None:
    model = create_model(name, num_classes=2)
    assert not is_resnet(model)
    with pytest.raises(SkdError, match=re.escape(message)):
        TimmFeatures(model)


def test_weights_arrive_completely_or_not_at_all(tmp_path: Path) -> None:
    model = network("regnetx_002")
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    settings = ["MODEL.TIMM.NAME", "regnetx_002", "MODEL.TIMM.WEIGHTS", str(file), "MODEL.FPN.OUT_CHANNELS", "16"]
    cfg = load_config("digits_demo", settings)
    take_from_card(cfg, wanted_weights(cfg))
    loaded = build_backbone(cfg).bottom_up.state_dict()
    expected = model.state_dict()
    assert len(loaded) > 100
    assert all(torch.equal(value, expected[key.removeprefix("network.")]) for key, value in loaded.items())
    head = {key for key in expected if key.startswith("head.")}
    assert {f"network.{key}" for key in set(expected) - head} == set(loaded), "all but the classifier"
    state = model.state_dict()
    state["s3.b1.conv1.conv.weights"] = state.pop("s3.b1.conv1.conv.weight")
    torch.save(state, file)
    with pytest.raises(SkdError, match=r"s3\.b1\.conv1\.conv\.weight"):
        build_backbone(cfg)


def test_pixels_are_those_of_the_network() -> None:
    for name, mean in (("tf_efficientnetv2_s", 127.5), ("convnext_atto", 123.675), ("resnet10t", 123.675)):
        cfg = load_config("base_faster_rcnn", ["MODEL.TIMM.NAME", name])
        take_from_card(cfg, None)
        assert (cfg.MODEL.PIXEL_MEAN[0], cfg.INPUT.FORMAT) == (mean, "RGB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (zoo.DC5, "RES5_DILATION 2 is for ResNets, not for convnext_atto"),
        (zoo.C4, "ConvNeXt has no layer4 for the head (C4)"),
    ],
)
def test_c4_and_dc5_are_for_resnets(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "config.yaml"), ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.DEVICE", "cpu"])
    with pytest.raises(SkdError, match=re.escape(message)):
        script.Trainer.build_model(cfg)


def test_retinanet_on_a_convnext(tmp_path: Path) -> None:
    overrides = ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.TIMM.WEIGHTS", "", "MODEL.RETINANET.P6_IN_FEATURE", "p5",
                 "MODEL.RETINANET.NUM_CLASSES", "10", "MODEL.RETINANET.NUM_CONVS", "1", "SOLVER.MAX_ITER", "2",
                 "DATASETS.TRAIN", "['skd_digits_train']", "DATASETS.TEST", "['skd_digits_val']",
                 "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path)]  # fmt: skip
    arguments = ["--config", "retinanet_r50_sdd", *SMALL, *overrides]
    with redirect_stderr(StringIO()) as printed, pytest.raises(SystemExit):
        script.main([*arguments, "MODEL.RETINANET.P6_IN_FEATURE", "p6"])
    assert "MODEL.RETINANET.P6_IN_FEATURE should be res5 or p5, got p6" in printed.getvalue()
    script.main(arguments)
    assert iterations(tmp_path) == 2
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert state["backbone.top_block.p6.weight"].shape[:2] == (16, 16), "made of p5"
    assert "backbone.bottom_up.network.stages.3.blocks.1.norm.weight" in state
    assert "AP50" in json.loads((tmp_path / "results.json").read_text())["bbox"]
