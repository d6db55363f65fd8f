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


def make_cfg(heads: str, **settings: float) -> CfgNode:
    """A small detector: FPN on our backbone, or C4 on detectron2's own."""
    if "Res5" in heads:
        cfg = get_cfg()
        add_skd_config(cfg)
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 4, 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    else:
        narrow = ["MODEL.TIMM.ARGS.channels", "[8, 16, 24, 32]", "MODEL.FPN.OUT_CHANNELS", "16"]
        cfg = load_config("digits_demo", [*narrow, "MODEL.ROI_BOX_HEAD.FC_DIM", "32"])
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


HEADS = [("SDDropoutROIHeads", "StandardROIHeads"), ("SDDropoutRes5ROIHeads", "Res5ROIHeads")]


@pytest.mark.parametrize(("ours", "theirs"), HEADS)
def test_only_a_loss_is_added(ours: str, theirs: str) -> None:
    torch.manual_seed(0)
    model, plain = build_model(make_cfg(ours)), build_model(make_cfg(theirs))
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    found, expected = losses(model), losses(plain)
    assert set(found) - set(expected) == {"loss_sdd"}
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert found["loss_sdd"] > 0
    model.zero_grad()
    found["loss_sdd"].backward()
    predictor = model.roi_heads.box_predictor
    assert predictor.cls_score.weight.grad.any()
    assert predictor.bbox_pred.weight.grad is None
    reached = [name for name, p in model.backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert reached or "Res5" in ours
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
