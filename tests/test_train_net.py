"""detection/train_net.py as its users run it: real training, COCO evaluation, kill and resume, two processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zoo
from detectron2.modeling import build_model
from faults.detectors import coco as make_coco

from detection import train_net as script
from detection.config import load_config
from detection.schedule import apply_schedule
from detection.trainer import Trainer
from skd_plugins import SkdError, export_weights, train
from skd_plugins.recipe import override
from skd_plugins.training.project import recipe_of, train_detector

ROOT = Path(__file__).parent.parent
TINY = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
        "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.FPN.OUT_CHANNELS", "16",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0"]  # fmt: skip # there are predictions after two iterations too
SMALL = [*TINY, "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
         "TEST.DETECTIONS_PER_IMAGE", "10", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"]  # fmt: skip


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(log: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the script in a process of its own; `log` gets its output."""
    command = [sys.executable, str(ROOT / "detection" / "train_net.py"), *arguments]
    with log.open("w") as file:
        return subprocess.Popen(
            command, env=os.environ | ENVIRONMENT | environment, stdout=file, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny COCO 2017; two of its six training images have no boxes."""
    root = make_coco(tmp_path_factory.mktemp("datasets"))
    annotations = root / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(annotations.read_text())
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] < 5]
    annotations.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def resnet50(digits_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that a (very short) run of recipes/imagenet_r50_sddropout.py leaves."""
    out = tmp_path_factory.mktemp("r50")
    overrides = ["max_steps=1", "batch_size=2", "image_size=32", "eval_batch_size=100", "workers=1", "trackers=[]",
                 # Untrained, 50 layers that do not start from zero make numbers too large for a detector.
                 "model_args.zero_init_last=true"]  # fmt: skip
    run = train(override(recipe_of("imagenet_r50_sddropout"), overrides), data=str(digits_beton), out=out)
    return export_weights(run, out / "weights")


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small training on the digits, of 4 iterations, as `skd reproduce` and the demonstration start it."""
    out = tmp_path_factory.mktemp("digits-run") / "out"
    overrides = ["SOLVER.MAX_ITER", "4", *TINY]
    results = train_detector(ROOT / "detection", "digits_demo", "resnet10t_digits.ce", out, overrides, ENVIRONMENT)
    assert results == out / "results.json"
    assert "AP50" in json.loads(results.read_text())["bbox"]
    assert iterations(out) == 4
    return out


def iterations(out: Path) -> int:
    return int(torch.load(out / "model_final.pth", weights_only=True)["iteration"]) + 1


def test_paper_config_trains_evaluates_is_killed_and_resumes(coco: Path, resnet50: Path, tmp_path: Path) -> None:
    # Four images have boxes: 2 epochs at batch 2 are 4 iterations.
    out, log = tmp_path / "out", tmp_path / "log.txt"
    overrides = ["MODEL.TIMM.WEIGHTS", str(resnet50), "SOLVER.IMS_PER_BATCH", "2", "SKD.EPOCHS", "2",
                 "SOLVER.CHECKPOINT_PERIOD", "1", "OUTPUT_DIR", str(out), *SMALL]  # fmt: skip
    arguments = ["--config", "faster_rcnn_r50_sdd.yaml", "--num-gpus", "1"]
    out.mkdir()
    (out / "config.yaml").write_text("of an attempt that ended before its first checkpoint")
    process = start(log, *arguments, *overrides, DETECTRON2_DATASETS=str(coco))
    end = time.monotonic() + 300
    while not (out / "last_checkpoint").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    first = log.read_text()
    assert process.returncode == -signal.SIGKILL, first[-3000:]
    assert re.search(r"backbone: all \d+ tensors of .*resnet50.sdd_in1k.safetensors matched", first)
    assert (
        "schedule: 4 iterations = 2 epochs of 4 images at batch 2, drops at [3], lr 0.0025 = SKD.BASE_LR 0.02" in first
    )
    record = (out / "config.yaml").read_text()

    resnet50.rename(tmp_path / "gone")  # the checkpoint has all weights
    process = start(log, *arguments, "--resume", *overrides, DETECTRON2_DATASETS=str(coco))
    assert process.wait(300) == 0, log.read_text()[-3000:]
    started = re.search(r"resumed at iteration (\d) of 4", log.read_text())
    assert started is not None
    assert int(started[1]) in (1, 2, 3)
    assert iterations(out) == 4
    assert (out / "config.yaml").read_text() == record
    cfg = yaml.safe_load(record)
    assert cfg["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert (cfg["SOLVER"]["MAX_ITER"], cfg["MODEL"]["WEIGHTS"]) == (4, "")
    results = json.loads((out / "results.json").read_text())["bbox"]
    assert {"AP", "AP50", "AP-person", "AP-toothbrush"} <= set(results)
    assert results["AP-person"] is not None
    assert results["AP-dog"] is None  # no dog in the set
    assert {path.name for path in (out / "pictures").iterdir()} == {f"coco_2017_val_{n:012d}.png" for n in range(1, 7)}
    lines = (out / "metrics.json").read_text()
    assert "total_loss" in lines
    assert "bbox/AP50" in lines
    assert list(out.glob("events.out.tfevents*"))


@pytest.mark.cuda
@pytest.mark.parametrize("heads", ["StandardROIHeads", "SDDropoutROIHeads"])
def test_a_detector_trains_on_a_gpu_with_amp(heads: str, tmp_path: Path) -> None:
    overrides = ["SOLVER.MAX_ITER", "4", "SOLVER.AMP.ENABLED", str(torch.cuda.is_available()), "MODEL.ROI_HEADS.NAME",
                 heads, *TINY]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1"}
    results = train_detector(ROOT / "detection", "digits_demo", "resnet10t_digits.ce", tmp_path, overrides, environment)
    assert "AP50" in json.loads(results.read_text())["bbox"]
    cfg = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (cfg["MODEL"]["DEVICE"], cfg["SOLVER"]["AMP"]["ENABLED"]) == ("cuda", True)
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in logged if "total_loss" in line]
    assert losses
    assert np.isfinite(losses).all()


def test_dry_run_prints_cocos_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script.main(["--config", "faster_rcnn_sdd.yaml", "--dry-run"])
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "118,287 images, 117,266 with annotations (published sizes)",
        "87950 iterations = 12 epochs of 117266 images at batch 16, drops at [58633, 78178], lr 0.02",
        "there are no weights 'resnet152.sdd_in1k'",
    ):
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_evaluation_alone_gives_the_same_numbers_and_the_saved_config_the_same_schedule(
    short_run: Path, tmp_path: Path
) -> None:
    detector = tmp_path / "moved" / "detector.pth"
    detector.parent.mkdir()
    shutil.copy(short_run / "model_final.pth", detector)
    config = str(short_run / "config.yaml")
    script.main(["--config", config, "--eval-only", "MODEL.WEIGHTS", str(detector), "OUTPUT_DIR", str(tmp_path)])
    assert f"no config.yaml beside {detector} says its pixels; mean [123.675" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((short_run / "results.json").read_text())
    assert len(list((tmp_path / "pictures").iterdir())) == 8
    assert 20_000 < (tmp_path / "report.html").stat().st_size < 600_000
    cfg = load_config(config)
    apply_schedule(cfg, 400)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (4, (3,), 0.02)


def test_retinanet_of_detectron2s_model_zoo(tmp_path: Path) -> None:
    """Its file, with its formula, on our backbone."""
    own, out = tmp_path / "retinanet.yaml", tmp_path / "out"
    own.write_text(zoo.RETINANET)
    more = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.RETINANET.NUM_CLASSES", "10", "MODEL.RETINANET.NUM_CONVS", "1",
            "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "(1,)",
            "DATASETS.TRAIN", "['skd_digits_train']", "DATASETS.TEST", "['skd_digits_val']"]  # fmt: skip
    sizes = load_config(str(own)).MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    arguments = ["--config", str(own), "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "2", *TINY, *more]
    with redirect_stdout(StringIO()) as printed:  # not capsys: detectron2's logger keeps the stream of the training
        script.main([*arguments[:2], "--dry-run", *arguments[2:]])
    assert "RetinaNet, 10 classes" in printed.getvalue()
    script.main(arguments)
    assert iterations(out) == 2
    state = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert state["backbone.top_block.p6.weight"].shape[:2] == (16, 512)  # made of res5, as detectron2 does
    assert "AP50" in json.loads((out / "results.json").read_text())["bbox"]
    for change, message in (
        (
            ["MODEL.BACKBONE.NAME", "build_timm_resnet_fpn_backbone", "MODEL.WEIGHTS", ""],
            "makes no p7 for MODEL.RETINANET.IN_FEATURES",
        ),
        (["MODEL.RETINANET.NUM_CLASSES", "3"], "has 10 classes, but MODEL.RETINANET.NUM_CLASSES is 3"),
    ):
        with redirect_stderr(StringIO()) as printed, pytest.raises(SystemExit):
            script.main([*arguments, *change, "OUTPUT_DIR", str(tmp_path / "other")])
        assert message in printed.getvalue()


@pytest.fixture(scope="session")
def own(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments for a set of one's own: two classes with masks, six images."""
    folder, arguments = tmp_path_factory.mktemp("own"), []
    for half in ("train", "val"):
        content = json.loads((coco / "coco" / "annotations" / f"instances_{half}2017.json").read_text())
        content["categories"] = [{"id": 1, "name": "bolt"}, {"id": 90, "name": "nut"}]
        (folder / f"{half}.json").write_text(json.dumps(content))
        arguments += [f"--{half}", str(folder / f"{half}.json"), str(coco / "coco" / f"{half}2017")]
    return arguments


FEW = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.ARGS.channels", "[8, 8, 16, 16]", "MODEL.TIMM.WEIGHTS", "",
       "SKD.EPOCHS", "1", "SOLVER.IMS_PER_BATCH", "2", "MODEL.RPN.PRE_NMS_TOPK_TEST", "20",
       "SKD.VISUALIZE_SCORE", "0"]  # fmt: skip
DETECTORS = {
    "c4": (zoo.C4, ["MODEL.ROI_HEADS.NAME", "SDDropoutRes5ROIHeads"], "loss_sdd", "roi_heads.res5.0.conv2.weight"),
    "dc5": (zoo.DC5, [], "loss_cls", "backbone.res5.0.conv2.weight"),
    "cascade with masks": (
        "_BASE_: cascade_rcnn_r50_sdd.yaml\nMODEL:\n  MASK_ON: True\n  ROI_MASK_HEAD:\n    CONV_DIM: 8\n",
        ["MODEL.ROI_HEADS.NAME", "SDDropoutCascadeROIHeads"], "loss_sdd_stage2", "roi_heads.mask_head.deconv.weight",
    ),
    "retinanet": (
        "_BASE_: retinanet_r50_sdd.yaml\nMODEL:\n  RETINANET:\n    SCORE_THRESH_TEST: 0.0\n    NUM_CONVS: 1\n", [],
        "loss_cls", "backbone.top_block.p7.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DETECTORS)
def test_any_detector_on_ones_own_images(kind: str, own: list[str], tmp_path: Path) -> None:
    text, overrides, loss, key = DETECTORS[kind]
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(text)
    script.main(["--config", str(config), *own, "OUTPUT_DIR", str(out), *SMALL, *FEW, *overrides])
    assert iterations(out) == 2, "four annotated images at batch 2"
    assert key in torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert loss in (out / "metrics.json").read_text()
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"bbox", "calibration"} | ({"segm"} if "masks" in kind else set())
    assert 0 <= results["calibration"]["D-ECE"] <= 100
    assert {"AP-bolt", "AP-nut"} <= set(results["bbox"])
    assert len(list((out / "pictures").iterdir())) == 6
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["SKD"]["TRAIN"] == own[1:3]
    assert saved["MODEL"]["RETINANET" if kind == "retinanet" else "ROI_HEADS"]["NUM_CLASSES"] == 2
    if kind == "c4":  # the saved configuration is complete; an evaluation does without the training's images
        again = tmp_path / "again"
        script.main(["--config", str(out / "config.yaml"), "--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth"),
                     "SKD.TRAIN", "['gone.json', 'gone']", "OUTPUT_DIR", str(again)])  # fmt: skip
        assert json.loads((again / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (
            {},
            ["MODEL.ROI_HEADS.NUM_CLASSES", "3"],
            "dataset own_train has 2 classes, but MODEL.ROI_HEADS.NUM_CLASSES is 3",
        ),
        ({1: "no.json"}, [], "no.json does not exist"),
        ({5: "no images"}, [], "no images does not exist"),
    ],
)
def test_ones_own_images_are_checked_first(
    change: dict[int, str], overrides: list[str], message: str, own: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = [change.get(number, word) for number, word in enumerate(own)]
    with redirect_stderr(StringIO()) as printed, pytest.raises(SystemExit):
        script.main(["--config", "digits_demo", *arguments, *overrides])
    assert message in printed.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_of_detectron2s_is_counted_in_epochs_of_ones_own_images(own: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(zoo.C4)
    for more, schedule in (
        ([], "12 iterations = 12 epochs of 4 images at batch 4, drops at [8, 11], lr 0.005 = SKD.BASE_LR 0.02"),
        (
            ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"],
            "18 iterations = 12 epochs of 6 images at batch 4, drops at [12, 16]",
        ),
        (["SOLVER.MAX_ITER", "7"], "7 iterations, drops at [60000, 80000], lr 0.02 (SOLVER; SKD.EPOCHS is 0)"),
    ):
        args = script.parser().parse_args(["--config", str(config), *own, "SOLVER.IMS_PER_BATCH", "4", *more])
        _, decided = script.setup(args)
        assert decided.startswith(schedule)


def test_adamw_has_the_groups_of_detectron2s_sgd() -> None:
    """Norms are not decayed, nor are ConvNeXt's layer scales."""
    common = [*TINY, "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "0.0001", "SOLVER.WEIGHT_DECAY", "0.05",
              "SOLVER.BIAS_LR_FACTOR", "2.0", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"]  # fmt: skip
    cfg = load_config("digits_demo", [*common, "MODEL.TIMM.NAME", "convnext_atto"])
    model = build_model(cfg)
    found = {}
    for name in ("SGD", "ADAMW"):
        cfg.SOLVER.OPTIMIZER = name
        optimizer = Trainer.build_optimizer(cfg, model)
        assert isinstance(optimizer, torch.optim.SGD if name == "SGD" else torch.optim.AdamW)
        groups = {id(one): group for group in optimizer.param_groups for one in group["params"]}
        found[name] = {
            key: (groups[id(one)]["lr"], groups[id(one)]["weight_decay"]) for key, one in model.named_parameters()
        }
    assert len(found["ADAMW"]) > 150
    changed = {key for key, values in found["ADAMW"].items() if values != found["SGD"][key]}
    assert changed == {key for key in found["SGD"] if key.endswith(".gamma")}
    assert len(changed) == 12, "one for each block"
    kinds = ("fpn_output2.weight", "fpn_output2.bias", "conv_dw.weight", ".norm.weight", ".norm.bias", ".gamma")
    assert {kind: {v for key, v in found["ADAMW"].items() if key.endswith(kind)} for kind in kinds} == {
        "fpn_output2.weight": {(1e-4, 0.05)}, "fpn_output2.bias": {(2e-4, 0.05)}, "conv_dw.weight": {(1e-4, 0.05)},
        ".norm.weight": {(1e-4, 0.0)}, ".norm.bias": {(2e-4, 0.0)}, ".gamma": {(1e-4, 0.0)},
    }  # fmt: skip


def test_two_machines_train_one_detector_on_ones_own_images(own: list[str], tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    logs = [tmp_path / f"{machine}.txt" for machine in range(2)]
    overrides = ["SOLVER.MAX_ITER", "2", *TINY, "MODEL.TIMM.ARGS.channels", "[8, 8, 16, 16]", "MODEL.ROI_HEADS.NAME",
                 "SDDropoutROIHeads"]  # fmt: skip
    processes = [
        start(log, "--config", "digits_demo", *own, "--num-machines", "2", "--machine-rank", str(machine), "--dist-url",
              f"tcp://127.0.0.1:{port}", "OUTPUT_DIR", str(tmp_path / str(machine)), *overrides)
        for machine, log in enumerate(logs)
    ]  # fmt: skip
    assert [process.wait(300) for process in processes] == [0, 0], logs[0].read_text()[-3000:]
    assert "World size: 2" in logs[0].read_text()
    out = tmp_path / "0"
    assert iterations(out) == 2
    assert "loss_sdd" in (out / "metrics.json").read_text()
    assert "AP50" in json.loads((out / "results.json").read_text())["bbox"]
    predictions = json.loads((out / "inference" / "own_val" / "coco_instances_results.json").read_text())
    images = {box["image_id"] for box in predictions}
    assert {number % 2 for number in images} == {0, 1}
    assert images <= set(range(1, 7))


BAD = {
    "no config": ([], "give a config, for example --config faster_rcnn_sdd.yaml"),
    "amp on a processor": (["--config", "digits_demo", "SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED needs a GPU"),
    "no data set": (["--config", "digits_demo", "DATASETS.TRAIN", "()"], "DATASETS.TRAIN should name a dataset"),
    "augmented tests": (["--config", "digits_demo", "TEST.AUG.ENABLED", "True"], "evaluation would leave it out"),
    "optimizer": (["--config", "digits_demo", "SOLVER.OPTIMIZER", "Adam"], "should be SGD or ADAMW, got Adam"),
    "batch and processes": (["--config", "digits_demo", "--num-gpus", "3"], "IMS_PER_BATCH 8 does not divide into 3"),
    "no detector": (["--config", "digits_demo", "--eval-only"], "give MODEL.WEIGHTS FILE"),
    "detector not there": (["--config", "digits_demo", "MODEL.WEIGHTS", "no.pth"], "WEIGHTS no.pth does not exist"),
    "classes": (["--config", "digits_demo", "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "has 10 classes, but MODEL"),
    "weights": (["--config", "digits_demo", "MODEL.TIMM.WEIGHTS", "no.pth"], "no.pth does not exist"),
    "no data": (["--config", "faster_rcnn_ce"], "dataset coco_2017_train is not there"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        script.main(arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_a_training_is_not_overwritten_and_another_detector_not_continued(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(short_run, out)
    for arguments, message in (
        ([], "holds a training already; continue it with --resume"),
        (["--resume", "MODEL.FPN.OUT_CHANNELS", "24"], "is not this configuration's detector"),
    ):
        with pytest.raises(SystemExit):
            script.main(["--config", "digits_demo", *arguments, "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "6"])
        assert message in capsys.readouterr().err


def test_train_detector_says_where_the_output_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative folder of data is the caller's."""
    monkeypatch.chdir(tmp_path)
    environment = ENVIRONMENT | {"DETECTRON2_DATASETS": "sets"}
    with pytest.raises(SkdError, match="the training of the detector failed; all of its output is in coco/output.txt"):
        train_detector(ROOT / "detection", "faster_rcnn_ce", "", Path("coco"), [], environment)
    looked_for = f"looked for {tmp_path / 'sets' / 'coco' / 'annotations' / 'instances_train2017.json'}"
    assert looked_for in capsys.readouterr().err
    assert looked_for in Path("coco/output.txt").read_text()
