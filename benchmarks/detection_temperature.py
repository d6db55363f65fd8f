"""A temperature for a detector's scores, fitted on held-out images as a classifier's is (Guo et al. 2017)."""

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou

from detection.datasets import OWN, register_own
from detection.trainer import NamingMapper, Trainer
from skd_plugins.evaluation import fit_temperature


def load(trained: Path) -> tuple[CfgNode, Any]:
    """A detector of train_net.py, and its configuration."""
    cfg = CfgNode.load_cfg((trained / "config.yaml").read_text())
    cfg.MODEL.WEIGHTS = str(trained / "model_final.pth")
    register_own(cfg)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return cfg, model


@torch.no_grad()
def fit(trained: Path) -> float:
    """The T that gives the box head the lowest NLL on ``SKD.VAL``; its targets are the classes of the proposals."""
    cfg, model = load(trained)
    heads, mapper = model.roi_heads, NamingMapper(cfg, is_train=True)
    logits, targets = [], []
    for record in DatasetCatalog.get(OWN["VAL"]):
        one = mapper(record)
        images, truth = model.preprocess_image([one]), one["instances"].to(model.device)
        features = model.backbone(images.tensor)
        (proposals,), _ = model.proposal_generator(images, features)
        boxes = proposals.proposal_boxes
        pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [boxes])
        scores, _ = heads.box_predictor(heads.box_head(pooled))
        nearest, right = heads.proposal_matcher(pairwise_iou(truth.gt_boxes, boxes))
        logits.append(scores)
        targets.append(torch.where(right == 1, truth.gt_classes[nearest], scores.shape[1] - 1))  # the last: background
    return fit_temperature(torch.cat(logits), torch.cat(targets))


def evaluate_scaled(trained: Path, temperature: float, out: Path) -> None:
    """Evaluates a detector with its class scores divided by the temperature, into `out`."""
    cfg, model = load(trained)
    for parameter in model.roi_heads.box_predictor.cls_score.parameters():
        parameter.data /= temperature
    cfg.OUTPUT_DIR = str(out)
    Trainer.test(cfg, model)
