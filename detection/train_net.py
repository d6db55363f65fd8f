"""Fine-tunes and evaluates a detector on a backbone trained by skd_plugins.

train_net.py --config faster_rcnn_sdd.yaml --num-gpus 8 MODEL.TIMM.WEIGHTS weights/resnet152.sdd_in1k.safetensors
train_net.py --config faster_rcnn_sdd.yaml --num-gpus 8 --resume
train_net.py --config faster_rcnn_sdd.yaml --eval-only MODEL.WEIGHTS model_final.pth
train_net.py --config faster_rcnn_sdd_0.5x.yaml --dry-run
train_net.py --config faster_rcnn_r50_sdd.yaml --train train.json IMAGES --val val.json IMAGES

--config takes a path, the name of a file in detection/configs, or one of detectron2's model zoo, where the network
of MODEL.TIMM.NAME or WEIGHTS takes the place of the ResNet. KEY VALUE pairs at the end change it. Without a GPU it
runs on the processor.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # run as a script, this folder's parent is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode
    from detectron2.engine import default_argument_parser, default_setup
    from detectron2.modeling import build_backbone
    from detectron2.utils import comm
except ImportError as error:
    raise SystemExit(f"error: detectron2 is needed for detection ({error}); skd doctor says how to get it") from None

import numpy as np
import torch

from detection import plan, weights
from detection.config import differences, find_config, load_config, uses_timm
from detection.datasets import check_datasets, register_own, size_of, use_own
from detection.launch import launch
from detection.schedule import apply_schedule
from detection.trainer import Trainer
from skd_plugins.common.errors import SkdError, one_line
from skd_plugins.weights import checkpoint


def parser() -> argparse.ArgumentParser:
    """detectron2's arguments, ``--config``, ``--dry-run``, ``--train`` and ``--val``."""
    result: argparse.ArgumentParser = default_argument_parser(epilog=__doc__)
    result.add_argument("--config", dest="config_file", default="", metavar="FILE", help="the same as --config-file")
    result.add_argument("--dry-run", action="store_true", help="print network, data, schedule, and stop")
    for half, where in (("train", "train on"), ("val", "evaluate")):
        text = f"{where} your own images: an annotation file in COCO's format, and the folder of its images"
        result.add_argument(f"--{half}", nargs=2, metavar=("JSON", "IMAGES"), help=text)
    return result


def setup(args: argparse.Namespace) -> tuple[CfgNode, str]:
    """The complete configuration, checked, and the schedule in words."""
    if not args.config_file:
        raise SkdError("give a config, for example --config faster_rcnn_sdd.yaml")
    args.config_file = str(find_config(args.config_file))
    cfg = load_config(args.config_file, args.opts)
    for half, place in (("TRAIN", args.train), ("VAL", args.val)):
        if place:
            cfg.SKD[half] = [str(Path(path).absolute()) for path in place]
    if args.eval_only:  # which does without the images of the training
        cfg.SKD.TRAIN, cfg.DATASETS.TRAIN = [], ()
    use_own(cfg, args.opts)
    if args.train and not cfg.SKD.EPOCHS and not {"SKD.EPOCHS", "SOLVER.MAX_ITER"} & set(args.opts):
        cfg.SKD.EPOCHS = 12.0  # detectron2's iterations are COCO's
    folder = Path(cfg.OUTPUT_DIR)
    last = last_checkpoint(folder)
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        if last is None:
            raise SkdError(f"--eval-only evaluates a detector: give MODEL.WEIGHTS FILE ({folder} has no checkpoint)")
        cfg.MODEL.WEIGHTS = str(last)
    elif last and args.resume:
        cfg.MODEL.WEIGHTS = str(last)  # the whole detector, so the backbone's weights are not needed
    elif last and not (args.eval_only or args.dry_run):
        raise SkdError(f"{folder} holds a training already; continue it with --resume, or give another OUTPUT_DIR")
    if cfg.MODEL.WEIGHTS and not Path(cfg.MODEL.WEIGHTS).exists() and "://" not in cfg.MODEL.WEIGHTS:
        raise SkdError(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} does not exist")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    needed = "TEST" if args.eval_only else "TRAIN"
    if not cfg.DATASETS[needed]:
        raise SkdError(f"DATASETS.{needed} should name a dataset")
    if cfg.TEST.AUG.ENABLED:
        raise SkdError("TEST.AUG.ENABLED is not for train_net.py, whose evaluation would leave it out; set it to False")
    if args.eval_only:
        return cfg, "none, only an evaluation"
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        raise SkdError("SOLVER.AMP.ENABLED needs a GPU in detectron2; set it to False")
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "ADAMW"):
        raise SkdError(f"SOLVER.OPTIMIZER should be SGD or ADAMW, got {cfg.SOLVER.OPTIMIZER}")
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, args.num_gpus * args.num_machines
    if processes < 1 or batch % processes:
        raise SkdError(f"SOLVER.IMS_PER_BATCH {batch} does not divide into {processes} processes")
    sizes = [size_of(name) for name in cfg.DATASETS.TRAIN]
    images = sum(size.annotated if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else size.images for size in sizes)
    if not images:
        raise SkdError(f"no image of {', '.join(cfg.DATASETS.TRAIN)} has an annotation that is not a crowd's")
    return cfg, apply_schedule(cfg, images, args.opts)


def complete(cfg: CfgNode, *, whole: bool) -> None:
    """Fills in what the configuration leaves open from the weights, and tries the weights on the network.

    With `whole`, ``MODEL.WEIGHTS`` is this very detector, to be evaluated or continued, so all of it has to fit.
    """
    saved = Path(cfg.MODEL.WEIGHTS).with_name("config.yaml") if cfg.MODEL.WEIGHTS else None
    if saved and saved.exists():  # the configuration saved beside a detector is complete
        weights.take_from_config(cfg, saved)
    source = weights.wanted_weights(cfg)
    weights.take_from_card(cfg, source)
    if uses_timm(cfg):
        build_backbone(cfg)
    if whole and cfg.MODEL.WEIGHTS.endswith(".pth"):
        weights.check_detector(cfg)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that detectron2 would resume from."""
    note = folder / "last_checkpoint"
    path = folder / note.read_text().strip() if note.exists() else None
    return path if path and path.exists() else None


def train(args: argparse.Namespace, cfg: CfgNode, schedule: str) -> None:
    """Runs in every process."""
    register_own(cfg)
    record = Path(cfg.OUTPUT_DIR) / "config.yaml"
    last = last_checkpoint(Path(cfg.OUTPUT_DIR))
    start = int(checkpoint.read(last).get("iteration", -1)) + 1 if last and args.resume else 0
    # Keep the configuration that the training started with; only a new training replaces it.
    before = record.read_text() if record.exists() and (args.eval_only or start) else None
    saved = CfgNode.load_cfg(before) if before else cfg
    if cfg.SEED < 0:  # a training that could not be continued exactly
        drawn = saved.SEED if saved.SEED >= 0 else int(np.random.randint(2**31))
        cfg.defrost()
        cfg.SEED = comm.all_gather(drawn)[0]
        cfg.freeze()
    default_setup(cfg, args)
    if before is not None and comm.is_main_process():
        record.write_text(before)
    log = logging.getLogger("detectron2.skd")
    log.info("schedule: %s", schedule)
    if uses_timm(cfg) and cfg.MODEL.WEIGHTS and not Path(cfg.MODEL.WEIGHTS).with_name("config.yaml").exists():
        log.warning(
            "no config.yaml beside %s says its pixels; mean %s and std %s are taken", cfg.MODEL.WEIGHTS,
            cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD,
        )  # fmt: skip
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHTS)
        Trainer.test(cfg, model)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if trainer.start_iter:
        log.info("resumed at iteration %d of %d", trainer.start_iter, trainer.max_iter)
        if changes := differences(saved, cfg):
            log.warning("the training began with another configuration: %s", "; ".join(changes))
    trainer.train()


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parser().parse_args(arguments)
    cfg, schedule = setup(args)
    logging.getLogger("detectron2.skd").setLevel(logging.INFO)
    if args.dry_run:
        plan.show(cfg, schedule)
        return
    check_datasets(cfg)
    complete(cfg, whole=bool(cfg.MODEL.WEIGHTS) and (args.eval_only or args.resume))
    cfg.freeze()
    launch(train, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args, cfg, schedule))


if __name__ == "__main__":
    main()
