"""detectron2's trainer with COCO evaluation, a results file and pictures."""

import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from skd_plugins.common.errors import SkdError
from skd_plugins.common.files import write_json

PREDICTIONS = "coco_instances_results.json"  # COCOEvaluator's file


class Trainer(DefaultTrainer):  # type: ignore[misc]  # detectron2 has no types
    """`detectron2.engine.DefaultTrainer`: its loop, hooks, checkpoints, TensorBoard and metrics.json."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """detectron2's loader, with an error that names the image."""
        return build_detection_train_loader(cfg, mapper=NamingMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The same for evaluation."""
        return build_detection_test_loader(cfg, dataset_name, mapper=NamingMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO's metrics and AP of every class, by detectron2's fast implementation if it is compiled."""
        return COCOEvaluator(
            dataset_name, output_dir=str(_inference_folder(cfg, dataset_name)), use_fast_impl=fast_evaluation()
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> OrderedDict[str, Any]:
        """Evaluates; the main process also writes ``results.json`` and the pictures to ``OUTPUT_DIR``."""
        results: OrderedDict[str, Any] = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)  # null for COCO's AP of a size without objects
            for name in cfg.DATASETS.TEST:
                for path in draw_predictions(cfg, name):
                    logging.getLogger("detectron2.skd").info("picture: %s", path)
        return results


class NamingMapper(DatasetMapper):  # type: ignore[misc]  # detectron2 has no types
    """`detectron2.data.DatasetMapper`, whose errors name the image."""

    def __call__(self, record: dict[str, Any]) -> Any:
        """The record with its image, as the model takes it."""
        try:
            return super().__call__(record)
        except (OSError, ValueError, SyntaxError, SizeMismatchError) as error:
            raise SkdError(f"{record['file_name']} can't be used: {type(error).__name__}: {error}") from None


def fast_evaluation() -> bool:
    """Whether detectron2's compiled COCO evaluation is there; the copy on PyPI lacks it."""
    try:
        from detectron2._C import COCOevalEvaluateImages  # noqa: F401  # imported only to see if it exists
    except (ImportError, RuntimeError):  # our stand-in for the missing module raises RuntimeError
        return False
    return True


def draw_predictions(cfg: CfgNode, dataset: str) -> list[Path]:
    """Writes ``SKD.VISUALIZE`` validation images as PNG, predictions on the left and ground truth on the right.

    The predictions are those that `COCOEvaluator` has written.
    """
    file = _inference_folder(cfg, dataset) / PREDICTIONS
    if not cfg.SKD.VISUALIZE or not file.exists():
        return []
    about = MetadataCatalog.get(dataset)
    classes = about.get("thing_dataset_id_to_contiguous_id") or {n: n for n in range(len(about.thing_classes))}
    predictions: dict[int, list[dict[str, Any]]] = {}
    for box in json.loads(file.read_text()):
        if box["score"] >= cfg.SKD.VISUALIZE_SCORE:
            predictions.setdefault(box["image_id"], []).append(box)
    folder = Path(cfg.OUTPUT_DIR) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for record in DatasetCatalog.get(dataset)[: cfg.SKD.VISUALIZE]:
        image = detection_utils.read_image(record["file_name"], "RGB")
        scale = max(1.0, 480 / max(image.shape[:2]))
        boxes = predictions.get(record["image_id"], [])
        found = Instances(image.shape[:2])
        corners = np.array([box["bbox"] for box in boxes], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]  # COCO has width and height
        found.pred_boxes = Boxes(torch.from_numpy(corners))
        found.scores = torch.tensor([box["score"] for box in boxes])
        found.pred_classes = torch.tensor([classes[box["category_id"]] for box in boxes], dtype=torch.long)
        left = Visualizer(image, about, scale=scale).draw_instance_predictions(found)
        right = Visualizer(image, about, scale=scale).draw_dataset_dict(record)
        path = folder / f"{dataset}_{Path(record['file_name']).stem}.png"
        Image.fromarray(np.concatenate([left.get_image(), right.get_image()], axis=1)).save(path)
        paths.append(path)
    return paths


def _inference_folder(cfg: CfgNode, dataset: str) -> Path:
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset
