"""detectron2's trainer with COCO evaluation, a results file and pictures."""

import json
import logging
import signal
from collections import OrderedDict
from contextlib import ExitStack
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
    detection_utils,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import COCOEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from skd_plugins.common.environment import versions
from skd_plugins.common.errors import SkdError
from skd_plugins.common.files import write_json
from skd_plugins.training.process import any_process, collected_signals

from .calibration import calibration
from .config import classes_key
from .report import write_report
from .stream import TrainLoader

PREDICTIONS = "coco_instances_results.json"  # COCOEvaluator's file


class Trainer(DefaultTrainer):  # type: ignore[misc]  # detectron2 has no types
    """`detectron2.engine.DefaultTrainer`: its loop, hooks, checkpoints, TensorBoard and metrics.json."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """detectron2's batches as a function of the iteration, with an error that names the image."""
        return TrainLoader(cfg, NamingMapper(cfg, is_train=True))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> Any:
        """detectron2's SGD, or AdamW with its groups, in which ConvNeXt's layer scales count as norms."""
        solver, chosen = cfg.SOLVER, super().build_optimizer(cfg, model)
        if solver.OPTIMIZER == "ADAMW":
            groups = get_default_optimizer_params(
                model, base_lr=solver.BASE_LR, weight_decay_norm=solver.WEIGHT_DECAY_NORM,
                bias_lr_factor=solver.BIAS_LR_FACTOR, weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
                overrides={"gamma": {"weight_decay": solver.WEIGHT_DECAY_NORM}},
            )  # fmt: skip
            kind = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
            chosen = kind(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
        return chosen

    def resume_or_load(self, resume: bool = True) -> None:
        """detectron2's; the images go on where the checkpoint stopped."""
        super().resume_or_load(resume)
        self._trainer.data_loader.batches.start = self.start_iter

    def state_dict(self) -> dict[str, Any]:
        """detectron2's, and the optimizer, which 0.6 leaves out; under the key of later versions."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict(), "processes": comm.get_world_size()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The same back."""
        if "_trainer" not in state:
            raise SkdError(
                f"{self.checkpointer.get_checkpoint_file()} has no optimizer, so its training can't go on; start "
                "another OUTPUT_DIR from it with MODEL.WEIGHTS"
            )
        super().load_state_dict(state)
        self._trainer.load_state_dict(state["_trainer"])
        before = state.get("processes", comm.get_world_size())
        if before != comm.get_world_size():
            logging.getLogger("detectron2.skd").warning(
                "%d processes began the training, %d go on: it is not continued exactly", before, comm.get_world_size()
            )

    def build_hooks(self) -> list[Any]:
        """detectron2's, and the end after a signal."""
        found: list[Any] = super().build_hooks()
        evaluation = next(place for place, hook in enumerate(found) if isinstance(hook, EvalHook))
        found.insert(evaluation, StopOnSignal())  # a checkpoint comes first, an evaluation would take too long
        return found

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
        """Evaluates; the main process also writes ``results.json``, a report and pictures to ``OUTPUT_DIR``."""
        results: OrderedDict[str, Any] = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                alone = len(cfg.DATASETS.TEST) == 1
                _report(cfg, name, results if alone else results[name], "report" if alone else f"report_{name}")
            write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)  # null for COCO's AP of a size without objects
        return results


class StopOnSignal(HookBase):  # type: ignore[misc]  # the same
    """Ends the training with a checkpoint after the step in which a process gets SIGTERM, SIGUSR1 or SIGINT."""

    def before_train(self) -> None:
        """Signals are collected from here on."""
        self.signals = ExitStack()
        self.received = self.signals.enter_context(collected_signals())

    def after_step(self) -> None:
        """Saves and exits. The last iteration saves anyway."""
        trainer = self.trainer
        device = torch.device(trainer.cfg.MODEL.DEVICE)
        if trainer.iter + 1 == trainer.max_iter or not any_process(self.received, comm.get_world_size(), device):
            return
        name = f"model_{trainer.iter:07d}"
        if comm.is_main_process() and Path(trainer.checkpointer.get_checkpoint_file()).stem != name:
            trainer.checkpointer.save(name, iteration=trainer.iter)
        comm.synchronize()  # a launcher ends the other processes when one has ended
        logging.getLogger("detectron2.skd").info(
            "stopped by signal after iteration %d of %d; continue with --resume", trainer.iter + 1, trainer.max_iter
        )
        raise SystemExit(128 + (self.received[0] if self.received else signal.SIGTERM))

    def after_train(self) -> None:
        """The evaluation at the end can be ended at any time."""
        self.signals.close()


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
    classes = about.get("thing_dataset_id_to_contiguous_id") or range(len(about.thing_classes))
    predictions: dict[int, list[dict[str, Any]]] = {}
    for box in json.loads(file.read_text()):
        if box["score"] >= cfg.SKD.VISUALIZE_SCORE:
            predictions.setdefault(box["image_id"], []).append(box)
    folder = Path(cfg.OUTPUT_DIR) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for record in DatasetCatalog.get(dataset)[: cfg.SKD.VISUALIZE]:
        image, boxes = detection_utils.read_image(record["file_name"], "RGB"), predictions.get(record["image_id"], [])
        corners = np.array([box["bbox"] for box in boxes]).reshape(-1, 4)
        found = Instances(
            image.shape[:2], scores=np.array([box["score"] for box in boxes]),
            pred_boxes=BoxMode.convert(corners, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
            pred_classes=np.array([classes[box["category_id"]] for box in boxes]),
        )  # fmt: skip
        truth = [dict(box) for box in record.get("annotations", [])]
        if cfg.MODEL.MASK_ON:
            found.pred_masks = [box["segmentation"] for box in boxes]
        else:
            for box in truth:
                box.pop("segmentation", None)  # which some boxes may lack
        left, right = (Visualizer(image, about, max(1, 480 / max(image.shape))) for _ in range(2))
        panels = left.draw_instance_predictions(found), right.draw_dataset_dict(record | {"annotations": truth})
        path = folder / f"{dataset}_{Path(record['file_name']).stem}.png"
        Image.fromarray(np.concatenate([panel.get_image() for panel in panels], axis=1)).save(path)
        paths.append(path)
    return paths


def _report(cfg: CfgNode, dataset: str, results: dict[str, Any], name: str) -> None:
    """Adds the calibration to the results of a set, and writes its pictures and its report."""
    folder, truth = _inference_folder(cfg, dataset), Path(MetadataCatalog.get(dataset).json_file)
    pictures, log = draw_predictions(cfg, dataset), logging.getLogger("detectron2.skd")
    for path in pictures:
        log.info("picture: %s", path)
    if "bbox" not in results:  # a set without annotations is only predicted
        return
    results["calibration"], found = calibration(truth, folder / PREDICTIONS)
    info = {
        "network": cfg.MODEL.TIMM.NAME or cfg.MODEL.BACKBONE.NAME,
        "weights": cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS,
        "detector": cfg.MODEL.META_ARCHITECTURE,
        "heads": cfg.MODEL.ROI_HEADS.NAME,
        "lowest score": cfg.MODEL[classes_key(cfg)].SCORE_THRESH_TEST,
        "versions": versions(),
    }
    if cfg.DATASETS.TRAIN:
        solver = cfg.SOLVER
        trained = f"{solver.MAX_ITER} iterations, batch {solver.IMS_PER_BATCH}, lr {solver.BASE_LR:g}, seed {cfg.SEED}"
        info["training"] = trained
    page = Path(cfg.OUTPUT_DIR) / f"{name}.html"
    title = Path(cfg.OUTPUT_DIR).absolute().name
    log.info("report: %s", write_report(page, title, dataset, truth, results, found, pictures, info))


def _inference_folder(cfg: CfgNode, dataset: str) -> Path:
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset
