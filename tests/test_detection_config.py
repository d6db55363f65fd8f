"""Config files: all of ours are complete, and what is wrong is named. Epochs become iterations, by a rule."""

import re
from pathlib import Path
from typing import Any

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

from detection.config import CONFIGS, find_config, load_config
from detection.schedule import apply_schedule, schedule
from detection.weights import take_from_card
from skd_plugins import SkdError
from skd_plugins.training.project import project, recipe_of

FASTER = sorted(CONFIGS.glob("faster_rcnn*.yaml"))
RECIPES = [recipe_of(file.stem) for file in (project() / "recipes").glob("imagenet_*.py")]


def test_files_are_listed() -> None:
    names = {path.stem for path in FASTER}
    assert {f"faster_rcnn_{m}{s}" for m in ("ce", "sdd") for s in ("", "_0.5x")} <= names
    assert {f"faster_rcnn_{n}_{m}" for n in ("r50", "r101", "x101_32x4d") for m in ("ce", "cskd", "sdd")} <= names
    assert len(FASTER) == 14


@pytest.mark.parametrize("path", FASTER, ids=lambda path: path.stem)
def test_faster_rcnn(path: Path) -> None:
    cfg = load_config(path.name)
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_resnet_fpn_backbone"
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SKD.BASE_LR, cfg.SKD.REFERENCE_BATCH) == (16, 0.02, 16)
    assert (7 if path.stem.endswith("0.5x") else 12) == cfg.SKD.EPOCHS
    assert f"runs/detection/{path.stem}" == cfg.OUTPUT_DIR
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    if path.stem == "faster_rcnn_regnetx_032":
        assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS) == ("regnetx_032", "timm/regnetx_032.tv2_in1k")
        return
    # The weights are those of a recipe that is here, of that network.
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == cfg.MODEL.TIMM.WEIGHTS]
    assert recipe.model == cfg.MODEL.TIMM.NAME
    assert recipe.name.split(".")[1].removesuffix("_in1k") in path.stem


VARIANTS = [f"{kind}_{net}sdd" for kind in ("mask_rcnn", "cascade_rcnn", "retinanet") for net in ("", "r50_")]


@pytest.mark.parametrize("name", VARIANTS)
def test_other_detectors_differ_in_what_they_are(name: str) -> None:
    network = "resnet50" if "r50" in name else "resnet152"
    cfg, base = load_config(name), load_config("faster_rcnn_r50_sdd")
    assert network == cfg.MODEL.TIMM.NAME
    assert [recipe.model for recipe in RECIPES if recipe.name == cfg.MODEL.TIMM.WEIGHTS] == [network]
    assert ("mask" in name) == cfg.MODEL.MASK_ON
    assert ("cascade" in name) == (cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads")
    assert ("retinanet" in name) == (cfg.MODEL.META_ARCHITECTURE == "RetinaNet")
    assert (0.01 if "retinanet" in name else 0.02) == cfg.SKD.BASE_LR
    assert (cfg.SOLVER, cfg.DATASETS, cfg.INPUT) == (base.SOLVER, base.DATASETS, base.INPUT)


def test_a_file_of_detectron2_gets_the_network_and_keeps_its_learning_rate(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text(zoo.RETINANET)
    plain = load_config(str(file))
    assert plain.MODEL.BACKBONE.NAME == "build_retinanet_resnet_fpn_backbone"
    assert plain.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    pixels = plain.MODEL.PIXEL_MEAN, plain.INPUT.FORMAT
    take_from_card(plain, None)
    assert (plain.MODEL.PIXEL_MEAN, plain.INPUT.FORMAT) == pixels == ([103.53, 116.28, 123.675], "BGR")
    cfg = load_config(str(file), ["MODEL.TIMM.NAME", "resnet18", "SKD.EPOCHS", "2"])
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_resnet_retinanet_fpn_backbone"
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.OUT_FEATURES) == ("", ["res3", "res4", "res5"])
    apply_schedule(cfg, 160)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (20, (13, 18), 0.01)
    assert cfg.SOLVER.WARMUP_ITERS == 6
    file.write_text(zoo.C4.replace("MODEL:", "MODEL:\n  PIXEL_STD: [57.375, 57.120, 58.395]"))
    assert load_config(str(file)).MODEL.PIXEL_STD == [57.375, 57.12, 58.395]
    cfg = load_config(str(file), ["MODEL.TIMM.NAME", "resnet18"])
    take_from_card(cfg, None)
    assert (cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) == ([58.395, 57.12, 57.375], "RGB"), "the file's were of its weights"
    settings = ["MODEL.TIMM.NORM", "BN", "MODEL.TIMM.WEIGHTS", "some.pth", "MODEL.RESNETS.NORM", "SyncBN"]
    cfg = load_config(str(file), settings)
    assert (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.TIMM.OUT_FEATURES) == ("TimmRes5ROIHeads", ["res4"])
    assert cfg.MODEL.TIMM.NORM == "BN", "the command line wins"
    assert load_config(str(file), settings[2:]).MODEL.TIMM.NORM == "SyncBN"


def test_bare_names_paths_and_overrides(tmp_path: Path) -> None:
    assert find_config("digits_demo") == find_config("digits_demo.yaml") == CONFIGS / "digits_demo.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: faster_rcnn_ce.yaml\nSOLVER:\n  IMS_PER_BATCH: 4\nSKD:\n  BASE_LR: 1e-2\n")
    cfg = load_config(str(own), ["MODEL.TIMM.ARGS.channels", "[8, 8, 8, 8]", "OUTPUT_DIR", "here"])
    assert cfg.SKD.BASE_LR == 0.01  # which PyYAML alone reads as a string
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR, cfg.MODEL.TIMM.ARGS.channels) == (4, "here", [8, 8, 8, 8])


def test_a_files_own_schedule_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: faster_rcnn_ce.yaml\nSOLVER:\n  BASE_LR: 0.005\n")
    with pytest.raises(SkdError, match=re.escape("own.yaml: SKD.EPOCHS 12 would replace SOLVER.BASE_LR; set SKD.EP")):
        load_config(str(own))
    cfg = load_config(str(own), ["SKD.EPOCHS", "0"])
    apply_schedule(cfg, 160)
    assert cfg.SOLVER.BASE_LR == 0.005
    own.write_text(cfg.dump())
    assert load_config(str(own), ["SKD.EPOCHS", "12"]).SKD.EPOCHS == 12, "a saved configuration has all of both"


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
        ("DATASETS:\n  TRAIN: (my_train,)\n", r'DATASETS.TRAIN; write a list: \[1, 2\], or \["name"\]'),
        (
            "VERSION: !!python/object/apply:eval ['[x for x in ().__class__]']\n",
            "is not a formula of numbers and lists",
        ),
        ("some text\n", "keys and values are expected"),
        ("VERSION: !!python/object/apply:os.system ['exit 1']\n", "could not determine a constructor"),
    ],
)
def test_damaged_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(SkdError, match=message) as error:
        load_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


DROPS = (2 / 3, 8 / 9)


@pytest.mark.parametrize(
    ("images", "epochs", "iterations"),
    [
        (117_266, 12, 87_950), (117_266, 7, 51_304), (118_287, 12, 88_716), (118_287, 7, 51_751),
        (90_000, 16, 90_000),  # detectron2's own, with drops at 60,000 and 80,000
    ],
)  # fmt: skip
def test_coco(images: int, epochs: float, iterations: int) -> None:
    plan = schedule(images, 16, epochs, DROPS, 0.02, 16)
    assert plan.iterations == iterations
    assert plan.drops == (round(iterations * 2 / 3), round(iterations * 8 / 9))
    assert plan.lr == 0.02


@given(images=st.integers(1, 10**6), batch=st.integers(1, 512), epochs=st.floats(0.01, 100))
def test_every_image_is_seen_and_no_batch_too_many(images: int, batch: int, epochs: float) -> None:
    plan = schedule(images, batch, epochs, DROPS, 0.02, 16)
    seen = plan.iterations * batch
    assert seen >= epochs * images - 1e-4 * batch
    assert seen < epochs * images + batch
    assert all(0 < drop < plan.iterations for drop in plan.drops)
    assert list(plan.drops) == sorted(set(plan.drops))
    assert len(plan.drops) == 2 or plan.iterations < 6
    assert plan.lr == pytest.approx(0.02 * batch / 16)


def test_the_command_line_wins_and_the_record_says_so() -> None:
    cfg = load_config("faster_rcnn_ce", ["SOLVER.IMS_PER_BATCH", "8"])
    text = apply_schedule(cfg, 117_266)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (175_899, (117_266, 156_355), 0.01)
    assert "0.01 = SKD.BASE_LR 0.02 * batch 8 / SKD.REFERENCE_BATCH 16" in text
    assert cfg.SKD.EPOCHS == 12

    overrides = ["SOLVER.MAX_ITER", "90"]
    cfg = load_config("faster_rcnn_ce", overrides)
    text = apply_schedule(cfg, 117_266, overrides)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (90, (60, 80), 0.02)
    assert text.startswith("SOLVER.MAX_ITER 90 from the command line; else ")
    assert cfg.SKD.EPOCHS == 0  # the saved config, read again, gives the same
    again = apply_schedule(cfg, 5)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (90, (60, 80))
    assert "SKD.EPOCHS is 0" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "SKD.EPOCHS should be above 0, got -1"),
        ({"drops": (0.9, 0.5)}, "SKD.DROPS should be ascending"),
        ({"drops": (0.5, 1.0)}, "SKD.DROPS should be ascending"),
        ({"batch_size": 0}, "SOLVER.IMS_PER_BATCH should be above 0"),
        ({"base_lr": float("nan")}, "SKD.BASE_LR should be above 0"),
    ],
)
def test_nonsense(arguments: dict[str, Any], message: str) -> None:
    sound = {"images": 10, "batch_size": 2, "epochs": 1, "drops": DROPS, "base_lr": 0.1, "reference_batch": 16}
    with pytest.raises(SkdError, match=re.escape(message)):
        schedule(**(sound | arguments))
