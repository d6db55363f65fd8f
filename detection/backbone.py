"""timm's and torchvision's ResNets as detectron2 backbones."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from timm.models import checkpoint_seq
from torch import Tensor, nn

from skd_plugins.common.errors import SkdError

from .timm_features import STAGES, STRIDES, TimmFeatures, channels_of, check_stages, with_norm
from .weights import check_against_card, create_classifier, wanted_weights

_STEM = ("conv1", "bn1", "maxpool")
_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class TimmResNet(Backbone):  # type: ignore[misc]  # detectron2 has no types
    """A timm or torchvision ResNet or ResNeXt without its classifier.

    Its features equal those of detectron2's own ResNet with the same weights (tests/test_detection_backbone.py).

    Args:
        norm: ``FrozenBN`` (statistics and affine parameters fixed), ``BN``, or ``SyncBN`` (over all processes).
        freeze_at: stages without gradient, as detectron2 counts: 1 is the stem, 2 the stem and ``res2``, ... Their
            BatchNorm is frozen whatever `norm` says.
        out_features: any of ``res2`` (stride 4) to ``res5`` (stride 32).
        dilated: the network's ``res5`` has dilation in place of a stride, so its stride is 16 (DC5).
        checkpoint_activations: recompute the blocks' activations in the backward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        out_features: Sequence[str] = STAGES,
        dilated: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        names = ["conv1", "bn1", "act1" if hasattr(network, "act1") else "relu", "maxpool"]
        check_stages(out_features, freeze_at)
        self.stem = nn.Sequential(*(getattr(network, name) for name in names))
        used = max(STAGES.index(name) for name in out_features) + 1  # a stage without gradient would stop DDP
        for stage, layer in zip(STAGES[:used], _LAYERS, strict=False):
            self.add_module(stage, getattr(network, layer))
        self.stages = STAGES[:used]
        self.checkpoint_activations = checkpoint_activations
        self._out_features = list(out_features)
        usual = STRIDES | ({"res5": 16} if dilated else {})
        self._out_feature_strides = {name: usual[name] for name in self.stages if name in out_features}
        self._out_feature_channels = channels_of(self, self._out_feature_strides, type(network).__name__)
        for number, (name, child) in enumerate(list(self.named_children())):
            child.requires_grad_(number >= freeze_at)
            self.add_module(name, with_norm(child, "FrozenBN" if number < freeze_at else norm))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features ``[B, C, H / stride, W / stride]`` by name, of normalised images ``[B, 3, H, W]``."""
        outputs = {}
        x = self.stem(x)
        for name in self.stages:
            stage = getattr(self, name)
            if self.checkpoint_activations and self.training and torch.is_grad_enabled() and _trained(stage):
                x = checkpoint_seq(stage, x, use_reentrant=False)
            else:
                x = stage(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


def head_stage(cfg: CfgNode) -> tuple[nn.Module, int]:
    """The network's last stage with its weights, for C4, which has it in the head; and its channels."""
    network: Any = create_classifier(cfg, wanted_weights(cfg))
    if not is_resnet(network):
        raise SkdError(f"{type(network).__name__} has no layer4 for the head (C4); take a feature pyramid")
    return with_norm(network.layer4, cfg.MODEL.TIMM.NORM), network.fc.in_features


def is_resnet(network: nn.Module) -> bool:
    """Whether the network has the parts of timm's and torchvision's ResNets and ResNeXts."""
    return all(isinstance(getattr(network, name, None), nn.Module) for name in (*_STEM, *_LAYERS))


def _check_fits(cfg: CfgNode) -> None:
    """Refuses what would leave out a part of the network, or of the configuration, without a word."""
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and issubclass(heads, Res5ROIHeads):
        if heads._build_res5_block.__func__ is Res5ROIHeads._build_res5_block.__func__:
            raise SkdError(
                f"{heads.__name__} (C4) makes a res5 of its own, so the network's would be lost; set "
                "MODEL.ROI_HEADS.NAME TimmRes5ROIHeads"
            )
        if "res5" in cfg.MODEL.TIMM.OUT_FEATURES:
            raise SkdError(
                f"{heads.__name__} (C4) has res5 in the head, so the backbone ends at res4; set "
                "MODEL.TIMM.OUT_FEATURES \"['res4']\""
            )
    if cfg.MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained"):
        raise SkdError(
            f'MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is of detectron2\'s own ResNet; set MODEL.WEIGHTS "" and name the '
            "network's weights in MODEL.TIMM.WEIGHTS, for example timm/resnet50.tv_in1k"
        )
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        raise SkdError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE does not reach the networks of MODEL.TIMM; use detectron2's own ResNet "
            "after skd export --format detectron2"
        )


def _trained(stage: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in stage.parameters())


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]  # detectron2 has no types
def build_timm_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """``MODEL.BACKBONE.NAME: build_timm_resnet_backbone``; see `add_skd_config` for its settings.

    A `TimmResNet`, or `TimmFeatures` if ``MODEL.TIMM.NAME`` is another network of timm.
    """
    if input_shape.channels != 3:
        raise SkdError(f"the network takes 3 channels, but MODEL.PIXEL_MEAN has {input_shape.channels} values")
    _check_fits(cfg)
    weights = wanted_weights(cfg)
    if weights:
        check_against_card(cfg, weights)
    network = create_classifier(cfg, weights)
    if weights:
        logging.getLogger("detectron2.skd").info(
            "backbone: all %d tensors of %s matched; of them, the stem and the stages to %s are kept",
            len(weights.state), weights.source, max(cfg.MODEL.TIMM.OUT_FEATURES, default="none"),
        )  # fmt: skip
    settings = {
        "norm": cfg.MODEL.TIMM.NORM, "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "out_features": cfg.MODEL.TIMM.OUT_FEATURES, "checkpoint_activations": cfg.MODEL.TIMM.CHECKPOINT_ACTIVATIONS,
    }  # fmt: skip
    dilated = cfg.MODEL.RESNETS.RES5_DILATION > 1
    if is_resnet(network):
        return TimmResNet(network, dilated=dilated, **settings)
    if dilated:
        raise SkdError(f"MODEL.RESNETS.RES5_DILATION 2 is for ResNets, not for {cfg.MODEL.TIMM.NAME}")
    return TimmFeatures(network, **settings)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]  # the same
def build_timm_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: build_timm_resnet_fpn_backbone``: `build_timm_resnet_backbone` under detectron2's FPN."""
    return _with_fpn(cfg, input_shape, retinanet=False)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]  # the same
def build_timm_resnet_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The same with RetinaNet's ``p6`` and ``p7``, made of ``MODEL.RETINANET.P6_IN_FEATURE``."""
    return _with_fpn(cfg, input_shape, retinanet=True)


def _with_fpn(cfg: CfgNode, input_shape: ShapeSpec, *, retinanet: bool) -> FPN:
    if cfg.MODEL.RESNETS.RES5_DILATION > 1:
        raise SkdError("a feature pyramid needs res5 at stride 32; set MODEL.RESNETS.RES5_DILATION 1")
    settings, bottom_up = cfg.MODEL.FPN, build_timm_resnet_backbone(cfg, input_shape)
    stages = bottom_up.output_shape()
    top = cfg.MODEL.RETINANET.P6_IN_FEATURE
    if retinanet and top not in ("res5", "p5"):
        raise SkdError(f"MODEL.RETINANET.P6_IN_FEATURE should be res5 or p5, got {top}")
    needed = [*settings.IN_FEATURES, *(["res5"] if retinanet else [])]
    if lacking := [name for name in needed if name not in stages]:
        raise SkdError(f"the feature pyramid needs {lacking[0]}; add it to MODEL.TIMM.OUT_FEATURES")
    channels = stages["res5"].channels if top == "res5" else settings.OUT_CHANNELS
    fpn = FPN(
        bottom_up=bottom_up,
        in_features=settings.IN_FEATURES,
        out_channels=settings.OUT_CHANNELS,
        norm=settings.NORM,
        top_block=LastLevelP6P7(channels, settings.OUT_CHANNELS, top) if retinanet else LastLevelMaxPool(),
        fuse_type=settings.FUSE_TYPE,
    )
    lacking = [name for name in cfg.MODEL.RETINANET.IN_FEATURES if name not in fpn.output_shape()]
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and lacking:
        raise SkdError(
            f"{cfg.MODEL.BACKBONE.NAME} makes no {', '.join(lacking)} for MODEL.RETINANET.IN_FEATURES; take "
            "build_timm_resnet_retinanet_fpn_backbone, and res3 to res5 as MODEL.FPN.IN_FEATURES"
        )
    return fpn
