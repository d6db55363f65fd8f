"""Trained classifiers as backbones in detectron2: a detectron2 project.

Importing it registers the backbones ``build_timm_resnet_backbone`` and ``build_timm_resnet_fpn_backbone``, the heads
``SDDropoutROIHeads`` and ``SDDropoutRes5ROIHeads``, and the digits detection set.
"""

from .backbone import TimmResNet as TimmResNet
from .backbone import build_timm_resnet_backbone as build_timm_resnet_backbone
from .backbone import build_timm_resnet_fpn_backbone as build_timm_resnet_fpn_backbone
from .config import add_skd_config as add_skd_config
from .digits import register_digits
from .roi_heads import SDDropoutRes5ROIHeads as SDDropoutRes5ROIHeads
from .roi_heads import SDDropoutROIHeads as SDDropoutROIHeads

register_digits()
