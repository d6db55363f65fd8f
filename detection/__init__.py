"""Trained classifiers as backbones in detectron2: a detectron2 project.

Importing it registers the backbones ``build_timm_resnet_backbone``, ``build_timm_resnet_fpn_backbone`` and
``build_timm_resnet_retinanet_fpn_backbone``, the heads ``SDDropoutROIHeads``, ``SDDropoutCascadeROIHeads``,
``TimmRes5ROIHeads`` and ``SDDropoutRes5ROIHeads``, and the digits detection set.
"""

from importlib.util import find_spec

if find_spec("detectron2"):  # torchvision_models.py does without
    from .backbone import (
        TimmResNet,
        build_timm_resnet_backbone,
        build_timm_resnet_fpn_backbone,
        build_timm_resnet_retinanet_fpn_backbone,
    )
    from .config import add_skd_config
    from .digits import register_digits
    from .roi_heads import SDDropoutCascadeROIHeads, SDDropoutRes5ROIHeads, SDDropoutROIHeads, TimmRes5ROIHeads
    from .timm_features import TimmFeatures

    register_digits()

__all__ = [
    "SDDropoutCascadeROIHeads",
    "SDDropoutROIHeads",
    "SDDropoutRes5ROIHeads",
    "TimmFeatures",
    "TimmRes5ROIHeads",
    "TimmResNet",
    "add_skd_config",
    "build_timm_resnet_backbone",
    "build_timm_resnet_fpn_backbone",
    "build_timm_resnet_retinanet_fpn_backbone",
    "register_digits",
]
