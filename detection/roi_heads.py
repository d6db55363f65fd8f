"""SD-Dropout on the box head's classification while a detector trains."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor

from skd_plugins.common.typed import check_value
from skd_plugins.losses import dropped, self_distillation
from skd_plugins.methods.method import DropRate, Temperature, Weight

from .backbone import head_stage
from .config import uses_timm


class SDDropoutOutputLayers(FastRCNNOutputLayers):  # type: ignore[misc]  # detectron2 has no types
    """detectron2's box classifier and regressor, whose losses gain ``loss_sdd`` in training.

    ``loss_sdd = WEIGHT * T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]``, averaged over the sampled proposals, background
    ones included; ``p_u`` and ``p_v`` are the class scores of two dropout samples of the proposals' features
    ``[R, D]``. Scores, boxes and every other loss are computed without dropout; inference is unchanged.

    Source: Lee et al. 2022, Eq. 3-4, at the detector's classifier. Ours: the paper distils the backbone only.
    RetinaNet has no such head: its classes are independent sigmoids at every place, not one distribution.
    """

    @configurable  # type: ignore[untyped-decorator]  # detectron2 has no types
    def __init__(self, *, weight: float, temperature: float, drop_rate: float, **arguments: Any) -> None:
        """See detectron2's ``configurable``: built from a configuration or from arguments."""
        super().__init__(**arguments)
        settings = "MODEL.ROI_HEADS.SD_DROPOUT"
        self.weight = check_value(weight, Weight, what=f"{settings}.WEIGHT")
        self.temperature = check_value(temperature, Temperature, what=f"{settings}.TEMPERATURE")
        self.drop_rate = check_value(drop_rate, DropRate, what=f"{settings}.DROP_RATE")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments of the constructor."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        return arguments | {name.lower(): value for name, value in cfg.MODEL.ROI_HEADS.SD_DROPOUT.items()}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores ``[R, K + 1]`` and box deltas ``[R, 4 K]``; in training also the scores of two dropout samples."""
        scores, deltas = super().forward(x)
        if not self.training:
            return scores, deltas
        x = x.flatten(start_dim=1)
        u, v = self.cls_score(torch.cat(dropped(x, self.drop_rate, 2))).chunk(2)
        return scores, deltas, u, v

    def losses(self, predictions: tuple[Tensor, ...], proposals: list[Any]) -> dict[str, Tensor]:
        """detectron2's losses and ``loss_sdd``."""
        scores, deltas, u, v = predictions
        losses: dict[str, Tensor] = super().losses((scores, deltas), proposals)
        sdd = self_distillation(u, v, self.temperature) if len(u) else u.sum()
        return losses | {"loss_sdd": self.weight * sdd}

    def predict_boxes(self, predictions: tuple[Tensor, ...], proposals: list[Any]) -> Any:
        """detectron2's, which a cascade calls in training."""
        return super().predict_boxes(predictions[:2], proposals)

    def predict_boxes_for_gt_classes(self, predictions: tuple[Tensor, ...], proposals: list[Any]) -> Any:
        """detectron2's, which is called in training when MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is set."""
        return super().predict_boxes_for_gt_classes(predictions[:2], proposals)


@ROI_HEADS_REGISTRY.register()
class TimmRes5ROIHeads(Res5ROIHeads):  # type: ignore[misc]  # the same
    """``MODEL.ROI_HEADS.NAME: TimmRes5ROIHeads`` in place of ``Res5ROIHeads`` (C4): ``res5`` is the network's.

    With detectron2's own ResNet it is the same as ``Res5ROIHeads``.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> Any:
        """The stage and its channels."""
        return head_stage(cfg) if uses_timm(cfg) else super()._build_res5_block(cfg)


class _SDDropout:
    """Gives ROI heads the box predictor with SD-Dropout."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """See detectron2's ``configurable``."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)  # type: ignore[misc]  # of the heads' class

        def with_dropout(predictor: FastRCNNOutputLayers) -> Any:
            shape = ShapeSpec(channels=predictor.cls_score.in_features)
            return SDDropoutOutputLayers(cfg, shape, box2box_transform=predictor.box2box_transform)

        if "box_predictors" in arguments:  # one for each stage of a cascade
            return arguments | {"box_predictors": [with_dropout(one) for one in arguments["box_predictors"]]}
        return arguments | {"box_predictor": with_dropout(arguments["box_predictor"])}


@ROI_HEADS_REGISTRY.register()
class SDDropoutROIHeads(_SDDropout, StandardROIHeads):  # type: ignore[misc]  # the same
    """``MODEL.ROI_HEADS.NAME: SDDropoutROIHeads`` in place of ``StandardROIHeads``: FPN and DC5."""


@ROI_HEADS_REGISTRY.register()
class SDDropoutCascadeROIHeads(_SDDropout, CascadeROIHeads):  # type: ignore[misc]  # the same
    """``MODEL.ROI_HEADS.NAME: SDDropoutCascadeROIHeads`` in place of ``CascadeROIHeads``, for all stages."""


@ROI_HEADS_REGISTRY.register()
class SDDropoutRes5ROIHeads(_SDDropout, TimmRes5ROIHeads):
    """``MODEL.ROI_HEADS.NAME: SDDropoutRes5ROIHeads`` in place of ``TimmRes5ROIHeads`` or ``Res5ROIHeads`` (C4)."""
