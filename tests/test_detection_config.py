"""Config files: all of ours are complete, and what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detection.config import CONFIGS, find_config, load_config
from skd_plugins import SkdError
from skd_plugins.training.project import project, recipe_of

FASTER = sorted(CONFIGS.glob("faster_rcnn*.yaml"))
RECIPES = [recipe_of(file.stem) for file in (project() / "recipes").glob("imagenet_*.py")]


def test_files_are_listed() -> None:
    names = {path.stem for path in FASTER}
    assert {f"faster_rcnn_{m}{s}" for m in ("ce", "sdd") for s in ("", "_0.5x")} <= names
    assert {f"faster_rcnn_{n}_{m}" for n in ("r50", "r101", "x101_32x4d") for m in ("ce", "cskd", "sdd")} <= names
    assert len(FASTER) == 13


@pytest.mark.parametrize("path", FASTER, ids=lambda path: path.stem)
def test_faster_rcnn(path: Path) -> None:
    cfg = load_config(path.name)
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_resnet_fpn_backbone"
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SKD.BASE_LR, cfg.SKD.REFERENCE_BATCH) == (16, 0.02, 16)
    assert (7 if path.stem.endswith("0.5x") else 12) == cfg.SKD.EPOCHS
    assert f"runs/detection/{path.stem}" == cfg.OUTPUT_DIR
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    # The weights are those of a recipe that is here, of that network.
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == cfg.MODEL.TIMM.WEIGHTS]
    assert recipe.model == cfg.MODEL.TIMM.NAME
    assert recipe.name.split(".")[1].removesuffix("_in1k") in path.stem


def test_bare_names_paths_and_overrides(tmp_path: Path) -> None:
    assert find_config("digits_demo") == find_config("digits_demo.yaml") == CONFIGS / "digits_demo.yaml"
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {CONFIGS / 'faster_rcnn_ce.yaml'}\nSOLVER:\n  IMS_PER_BATCH: 4\nSKD:\n  BASE_LR: 1e-2\n")
    cfg = load_config(str(own), ["MODEL.TIMM.ARGS.channels", "[8, 8, 8, 8]", "OUTPUT_DIR", "here"])
    assert cfg.SKD.BASE_LR == 0.01  # which PyYAML alone reads as a string
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR, cfg.MODEL.TIMM.ARGS.channels) == (4, "here", [8, 8, 8, 8])


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("faster_rcnn_sd.yaml", [], "unknown config 'faster_rcnn_sd.yaml'; did you mean 'faster_rcnn_sdd.yaml'?"),
        ("faster_rcnn_ce", ["SKD.EPOCH", "3"], "unknown config key 'SKD.EPOCH'; did you mean 'SKD.EPOCHS'?"),
        ("faster_rcnn_ce", ["SKD.EPOCHS"], "'SKD.EPOCHS' has no partner"),
        ("faster_rcnn_ce", ["SKD.EPOCHS", "many"], "SKD.EPOCHS many: Type mismatch"),
        ("faster_rcnn_ce", ["SKD.EPOCHS", "3", "--resume"], "--resume stands among the overrides"),
    ],
)
def test_what_is_wrong_is_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(SkdError, match=re.escape(message)):
        load_config(name, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  TIM: {}\n", "Non-existent config key: MODEL.TIM"),
        ("SKD:\n  BASE_LR: fast\n", "Type mismatch"),
        ("MODEL: [\n", "parsing"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
    ],
)
def test_damaged_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(SkdError, match=message) as error:
        load_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
