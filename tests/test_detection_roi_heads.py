"""SD-Dropout on the box head: the loss of the equation, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detection import add_skd_config
from detection.config import load_config
from skd_plugins import SkdError

SETTINGS = {"WEIGHT": 0.7, "TEMPERATURE": 2.0, "DROP_RATE": 0.4}


def make_cfg(heads: str, *, native: bool = False, **settings: float) -> CfgNode:
    """A small detector: FPN on our backbone, or C4 on ours or on detectron2's own."""
    if native:
        cfg = get_cfg()
        add_skd_config(cfg)
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 4, 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    else:
        narrow = ["MODEL.TIMM.ARGS.channels", "[8, 16, 24, 32]", "MODEL.FPN.OUT_CHANNELS", "16"]
        cfg = load_config("digits_demo", [*narrow, "MODEL.ROI_BOX_HEAD.FC_DIM", "32"])
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
        if "Res5" in heads:
            cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.OUT_FEATURES = "build_timm_resnet_backbone", ["res4"]
            cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
            cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = [[16, 32, 64]], 14
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads, 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.SD_DROPOUT.update(SETTINGS | settings)
    return cfg


def batch() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    records = []
    for index in range(2):
        truth = Instances((96, 96))
        truth.gt_boxes = Boxes(torch.tensor([[8.0, 8, 60, 60], [40, 30, 90, 90]]))
        truth.gt_classes = torch.tensor([index, 2])
        records.append(
            {"image": torch.rand(3, 96, 96, generator=generator) * 255, "instances": truth, "height": 96, "width": 96}
        )
    return records


def losses(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with EventStorage():
        return model.train()(batch())


HEADS = [
    ("SDDropoutROIHeads", "StandardROIHeads", False), ("SDDropoutRes5ROIHeads", "TimmRes5ROIHeads", False),
    ("SDDropoutRes5ROIHeads", "Res5ROIHeads", True), ("SDDropoutCascadeROIHeads", "CascadeROIHeads", False),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "native"), HEADS)
def test_only_a_loss_is_added(ours: str, theirs: str, native: bool) -> None:
    torch.manual_seed(0)
    model, plain = (build_model(make_cfg(heads, native=native)) for heads in (ours, theirs))
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    found, expected = losses(model), losses(plain)
    predictor = model.roi_heads.box_predictor
    stages = list(predictor) if "Cascade" in ours else [predictor]
    added = [f"loss_sdd_stage{n}" for n in range(3)] if "Cascade" in ours else ["loss_sdd"]
    assert sorted(set(found) - set(expected)) == added
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert all(found[key] > 0 for key in added)
    model.zero_grad()
    sum(found[key] for key in added).backward()
    assert all(stage.cls_score.weight.grad.any() for stage in stages)
    assert all(stage.bbox_pred.weight.grad is None for stage in stages)
    reached = [name for name, p in model.backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert reached or native
    with torch.no_grad():
        a, b = (net.eval()(batch()[:1])[0]["instances"] for net in (model, plain))
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores)


def test_loss_is_the_equation() -> None:
    """Against float64 NumPy, written from Eq. 3-4."""
    predictor = build_model(make_cfg("SDDropoutROIHeads")).roi_heads.box_predictor.train()
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)) * 3
    torch.nn.init.normal_(predictor.cls_score.weight)
    torch.manual_seed(5)
    scores, _, u, v = predictor(x)
    torch.manual_seed(5)
    dropped = [F.dropout(x, 0.4).double().numpy() for _ in range(2)]
    weight, bias = (p.detach().double().numpy() for p in (predictor.cls_score.weight, predictor.cls_score.bias))
    total, p = 0.0, []
    for features in dropped:
        z = (features @ weight.T + bias) / 2.0
        e = np.exp(z - z.max(1, keepdims=True))
        p.append(e / e.sum(1, keepdims=True))
    for first, second in ((p[0], p[1]), (p[1], p[0])):
        total += (first * np.log(first / second)).sum() / len(x)
    proposals = Instances((96, 96))
    proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]]).repeat(6, 1))
    proposals.gt_classes = torch.tensor([0, 1, 2, 3, 3, 3])
    with EventStorage():
        result = predictor.losses((scores, torch.zeros(6, 12), u, v), [proposals])
    assert result["loss_sdd"].item() == pytest.approx(0.7 * 2.0**2 * total, rel=1e-5)
    torch.testing.assert_close(scores, predictor.cls_score(x))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("WEIGHT", -1.0, "WEIGHT should be greater than or equal to 0"),
        ("TEMPERATURE", 0.0, "TEMPERATURE should be greater than 0"),
        ("DROP_RATE", 1.0, "DROP_RATE should be less than 1"),
    ],
)
def test_settings_are_checked(setting: str, value: float, message: str) -> None:
    with pytest.raises(SkdError, match=rf"MODEL.ROI_HEADS.SD_DROPOUT.{message}"):
        build_model(make_cfg("SDDropoutROIHeads", **{setting: value}))
