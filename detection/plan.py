"""``--dry-run``: network, weights, data and schedule of a training."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from rich.console import Console
from rich.table import Table

from skd_plugins.common.errors import SkdError

from . import weights
from .config import classes_key, plain, uses_timm
from .datasets import check_datasets, missing, size_of


def show(cfg: CfgNode, decided: str) -> None:
    """Prints the plan, with the schedule in words from `apply_schedule`. Missing weights or data are a row of it."""
    rows = {"weights": "random (MODEL.TIMM.WEIGHTS is empty)"}
    source = None
    if cfg.MODEL.WEIGHTS:
        rows["weights"] = f"the detector {cfg.MODEL.WEIGHTS}"
    elif cfg.MODEL.TIMM.WEIGHTS:
        try:
            source = weights.wanted_weights(cfg)
            assert source is not None
            weights.take_from_card(cfg, source)
            weights.create_classifier(cfg, source)
            rows["weights"] = f"{source.source}: all {len(source.state)} tensors match"
        except SkdError as error:
            rows["weights"], source = f"can't be used: {error}", None
    weights.take_from_card(cfg, source)
    bare = cfg.clone()
    bare.MODEL.WEIGHTS, bare.MODEL.TIMM.WEIGHTS, bare.MODEL.DEVICE = "", "", "cpu"
    parameters = list(build_model(bare).parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    timm, key, arguments = cfg.MODEL.TIMM, classes_key(cfg), plain(cfg.MODEL.TIMM.ARGS)
    ours = f"{timm.NAME} {arguments or ''}, {timm.NORM}, {cfg.MODEL.BACKBONE.FREEZE_AT} stages frozen"
    heads = cfg.MODEL.ROI_HEADS.NAME if key == "ROI_HEADS" else cfg.MODEL.META_ARCHITECTURE
    rows |= {
        "backbone": ours.replace(" ,", ",") if uses_timm(cfg) else cfg.MODEL.BACKBONE.NAME,
        "heads": f"{heads}, {cfg.MODEL[key].NUM_CLASSES} classes",
        "parameters": f"{sum(one.numel() for one in parameters):,}, of them {trained:,} trained",
        "pixels": f"{cfg.INPUT.FORMAT}, mean {list(cfg.MODEL.PIXEL_MEAN)}, std {list(cfg.MODEL.PIXEL_STD)}",
    }
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        size, where = size_of(name), "published sizes" if missing(name) else "counted"
        rows[name] = f"{size.images:,} images, {size.annotated:,} with annotations ({where})"
    try:
        check_datasets(cfg)
    except SkdError as error:
        rows["data"] = f"can't be used: {error}"
    rows |= {"schedule": decided, "device": cfg.MODEL.DEVICE, "output": cfg.OUTPUT_DIR}
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for title, text in rows.items():
        table.add_row(f"[bold]{title}", text)
    Console(soft_wrap=False).print(table)
