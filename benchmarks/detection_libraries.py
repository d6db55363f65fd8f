"""torchvision's Faster R-CNN beside detectron2's: AP on the digits detection set from one backbone.

The backbone is a ResNet-18, which both libraries have, trained as recipes/digits_ce.py trains its ResNet-10. A seed's
two detectors begin with the same weights, heads included, and see the same images; loop, schedule and evaluation are
detectron2's. Pooling and the boxes' loss, where detectron2's defaults are others, are torchvision's in both. What
differs: torchvision rounds its anchors to whole pixels, and spaces those of its coarsest level otherwise. The
detectors of detectron2 are evaluated in torchvision's code too. Nothing is tuned: the settings are those of
detection/configs/digits_demo.yaml, for 4 epochs.

Run: python benchmarks/detection_libraries.py [--out runs/detection-libraries]     # 30 minutes of a core
     python benchmarks/detection_libraries.py --page      # the committed numbers into docs/detection.md
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rounds import ROOT

sys.path.insert(0, str(ROOT))  # the package `detection`, before the benchmark of this name
import torch
from detection_calibration import command, compared, numbers_of
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from detection import train_net
from detection.torchvision_models import use_backbone
from detection.trainer import Trainer
from skd_plugins import train
from skd_plugins.commands.study import summarise
from skd_plugins.common.environment import environment
from skd_plugins.recipe import replace
from skd_plugins.training.project import recipe_of

SEEDS = (1, 2, 3)
COLUMNS = ("AP", "AP50", "AP75", "D-ECE", "LaECE")
ARMS = {"detectron2": "GeneralizedRCNN", "torchvision": "TorchvisionFasterRCNN"}
CONVERTED = "detectron2's detectors, in torchvision"
SETTINGS = [
    "SKD.EPOCHS", "4", "SKD.VISUALIZE", "0", "DATALOADER.NUM_WORKERS", "0", "MODEL.TIMM.NAME", "resnet18",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "2",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", str(1 / 9), "MODEL.RPN.SMOOTH_L1_BETA", str(1 / 9),
]  # fmt: skip


@META_ARCH_REGISTRY.register()
class TorchvisionFasterRCNN(nn.Module):
    """torchvision's, with the configuration's settings; takes and returns what detectron2's does.

    It begins with the weights with which detectron2's would begin; those of the backbone come through `use_backbone`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        initial = to_torchvision(GeneralizedRCNN(cfg).state_dict())
        rpn, heads, box = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        channels, sizes = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ANCHOR_GENERATOR.SIZES
        layers = {f"layer{number + 1}": str(number) for number in range(4)}
        head = nn.Sequential(nn.Flatten(), nn.Linear(channels * box.POOLER_RESOLUTION**2, box.FC_DIM), nn.ReLU())
        detector = FasterRCNN(
            BackboneWithFPN(resnet18(), layers, [64, 128, 256, 512], channels),
            min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST,
            rpn_anchor_generator=AnchorGenerator(
                tuple(map(tuple, sizes)), tuple(map(tuple, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS * len(sizes)))
            ),
            rpn_pre_nms_top_n_train=rpn.PRE_NMS_TOPK_TRAIN, rpn_pre_nms_top_n_test=rpn.PRE_NMS_TOPK_TEST,
            rpn_post_nms_top_n_train=rpn.POST_NMS_TOPK_TRAIN, rpn_post_nms_top_n_test=rpn.POST_NMS_TOPK_TEST,
            box_head=head, box_predictor=FastRCNNPredictor(box.FC_DIM, heads.NUM_CLASSES + 1),
            box_batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE, box_score_thresh=heads.SCORE_THRESH_TEST,
        )  # fmt: skip
        use_backbone(detector, cfg.MODEL.TIMM.WEIGHTS, trainable_layers=5, frozen_norm=False)
        body = {f"backbone.body.{key}": value for key, value in detector.backbone.body.state_dict().items()}
        detector.load_state_dict(initial | body)
        self.detector = detector

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        """Losses in training, else ``instances`` for each image."""
        device = next(self.parameters()).device
        images = [one["image"].to(device) / 255 for one in batch]
        if self.training:
            truth = [one["instances"].to(device) for one in batch]
            return self.detector(images, [{"boxes": t.gt_boxes.tensor, "labels": t.gt_classes + 1} for t in truth])
        found = []
        for one, result in zip(batch, self.detector(images), strict=True):
            fields = {"pred_boxes": Boxes(result["boxes"]), "scores": result["scores"]}
            instances = Instances(one["image"].shape[1:], **fields, pred_classes=result["labels"] - 1)
            found.append({"instances": detector_postprocess(instances, one["height"], one["width"])})
        return found


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Faster R-CNN's weights under torchvision's names. The background is torchvision's first class."""
    names = {
        "proposal_generator.rpn_head.conv.": "rpn.head.conv.0.0.", "roi_heads.box_head.fc1.": "roi_heads.box_head.1.",
        "proposal_generator.rpn_head.objectness_logits.": "rpn.head.cls_logits.",
        "proposal_generator.rpn_head.anchor_deltas.": "rpn.head.bbox_pred.",
        "roi_heads.box_predictor.": "roi_heads.box_predictor.",
        "backbone.bottom_up.stem.0.": "backbone.body.conv1.", "backbone.bottom_up.stem.1.": "backbone.body.bn1.",
    }  # fmt: skip
    for number in range(4):
        names |= {
            f"backbone.bottom_up.res{number + 2}.": f"backbone.body.layer{number + 1}.",
            f"backbone.fpn_lateral{number + 2}.": f"backbone.fpn.inner_blocks.{number}.0.",
            f"backbone.fpn_output{number + 2}.": f"backbone.fpn.layer_blocks.{number}.0.",
        }
    result = {
        own + key.removeprefix(name): value for key, value in state.items() for name, own in names.items()
        if key.startswith(name)
    }  # fmt: skip
    for kind in ("weight", "bias"):
        scores, boxes = (f"roi_heads.box_predictor.{part}.{kind}" for part in ("cls_score", "bbox_pred"))
        result[scores] = result[scores].roll(1, 0)
        result[boxes] = torch.cat([torch.zeros_like(result[boxes][:4]), result[boxes]])
    return result


def backbone(out: Path, **changes: Any) -> Path:
    """The ResNet-18's run; trains it unless that is done."""
    recipe = replace(recipe_of("digits_ce"), name="resnet18_digits.ce", model="resnet18", model_args={}, **changes)
    return train(replace(recipe, workers=0, trackers=()), out=out, resume=True)


def detector(out: Path, seed: int, kind: str, weights: Path, more: Sequence[str] = ()) -> dict[str, float]:
    """Trains and evaluates unless it is done; the columns' values in per cent."""
    begin = time.monotonic()
    if not (out / "results.json").exists():
        resume = ["--resume"] if (out / "last_checkpoint").exists() else []
        given = ["MODEL.META_ARCHITECTURE", kind, "MODEL.TIMM.WEIGHTS", str(weights), "SEED", str(seed)]
        train_net.main(["--config", "digits_demo", *resume, *SETTINGS, *given, *more, "OUTPUT_DIR", str(out)])
        print(f"{out.name}: {time.monotonic() - begin:.0f} s", flush=True)
    return numbers_of(out / "results.json", COLUMNS)


def in_torchvision(trained: Path, out: Path) -> dict[str, float]:
    """The same of detectron2's trained detector, evaluated in torchvision's code."""
    if not (out / "results.json").exists():
        cfg = CfgNode.load_cfg((trained / "config.yaml").read_text())
        model = TorchvisionFasterRCNN(cfg).to(cfg.MODEL.DEVICE)
        state = torch.load(trained / "model_final.pth", map_location="cpu", weights_only=True)["model"]
        model.detector.load_state_dict(to_torchvision(state))
        cfg.OUTPUT_DIR = str(out)
        Trainer.test(cfg, model)
    return numbers_of(out / "results.json", COLUMNS)


def study(out: Path, seeds: Sequence[int] = SEEDS, more: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    weights = backbone(out, **changes)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in seeds:
        for name, kind in ARMS.items():
            found[name].append(detector(out / f"{name}_{seed}", seed, kind, weights, more))
    found[CONVERTED] = [in_torchvision(out / f"detectron2_{seed}", out / f"converted_{seed}") for seed in seeds]
    return {"test": summarise(found), "environment": environment()}


def table(content: dict[str, Any]) -> str:
    """Markdown."""
    seeds = len(content["test"]["detectron2"]["AP"]["values"])
    title = (
        f"The test images, mean and deviation of {seeds} seeds, in per cent; p of a paired t-test, corrected (Holm):"
    )
    return "\n".join([title, "", *compared(content["test"], COLUMNS)])


if __name__ == "__main__":
    command(__doc__, "libraries", study, table)
