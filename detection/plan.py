"""``--dry-run``: network, weights, data and schedule of a training."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from rich.console import Console
from rich.table import Table

from skd_plugins.common.errors import SkdError

from . import weights
from .config import classes_key, plain, uses_timm
from .datasets import check_datasets, missing, size_of


def make_plan(cfg: CfgNode, decided: str) -> dict[str, str]:
    """The plan's rows. Missing weights or data are a row, not an error.

    Args:
        cfg: from `load_config`; changed in place.
        decided: the schedule in words, from `apply_schedule`.
    """
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
    model = build_model(bare)
    arguments, key = plain(cfg.MODEL.TIMM.ARGS), classes_key(cfg)
    heads = cfg.MODEL.ROI_HEADS.NAME if key == "ROI_HEADS" else cfg.MODEL.META_ARCHITECTURE
    rows |= {
        "backbone": f"{cfg.MODEL.TIMM.NAME}{f' {arguments}' if arguments else ''}, {cfg.MODEL.TIMM.NORM}, "
        f"{cfg.MODEL.BACKBONE.FREEZE_AT} stages frozen"
        if uses_timm(cfg)
        else cfg.MODEL.BACKBONE.NAME,
        "heads": f"{heads}, {cfg.MODEL[key].NUM_CLASSES} classes",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}, of them "
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} trained",
        "pixels": f"{cfg.INPUT.FORMAT}, mean {list(cfg.MODEL.PIXEL_MEAN)}, std {list(cfg.MODEL.PIXEL_STD)}",
    }
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        size = size_of(name)
        where = "published sizes" if missing(name) else "counted"
        rows[name] = f"{size.images:,} images, {size.annotated:,} with annotations ({where})"
    try:
        check_datasets(cfg)
    except SkdError as error:
        rows["data"] = f"can't be used: {error}"
    rows["schedule"] = decided
    rows["device"], rows["output"] = cfg.MODEL.DEVICE, cfg.OUTPUT_DIR
    return rows


def show(cfg: CfgNode, decided: str) -> None:
    """Prints `make_plan`."""
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in make_plan(cfg, decided).items():
        table.add_row(f"[bold]{key}", value)
    Console(soft_wrap=False).print(table)
