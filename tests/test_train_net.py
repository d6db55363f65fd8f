"""detection/train_net.py as its users run it: real training, COCO evaluation, kill and resume, two processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from skd_plugins import SkdError, export_weights
from skd_plugins.training.project import train_detector, train_recipe

ROOT = Path(__file__).parent.parent
TINY = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
        "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.FPN.OUT_CHANNELS", "16",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0"]  # fmt: skip # there are predictions after two iterations too
SMALL = [*TINY, "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
         "TEST.DETECTIONS_PER_IMAGE", "10", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"]  # fmt: skip
DIGITS = [*TINY, "MODEL.TIMM.ARGS.channels", "[8, 8, 16, 16]"]


def environment(datasets: Path | None = None) -> dict[str, str]:
    extra = {"DETECTRON2_DATASETS": str(datasets)} if datasets else {}
    return os.environ | extra | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "detection" / "train_net.py"), *arguments]


def train_net(
    *arguments: str, datasets: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(datasets), cwd=cwd, capture_output=True, text=True, timeout=400
    )


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DETECTRON2_DATASETS with a tiny COCO 2017: five training images, one without boxes, and two to validate."""
    root = tmp_path_factory.mktemp("datasets")
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    (root / "coco" / "annotations").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for half, count in (("train", 5), ("val", 2)):
        folder = root / "coco" / f"{half}2017"
        folder.mkdir()
        images, boxes = [], []
        for number in range(1, count + 1):
            top, left = int(draw.integers(300)), int(draw.integers(500))
            crop = photographs[number % 2][top : top + 96, left : left + 128]
            Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{number:012d}.jpg")
            height, width = crop.shape[:2]
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width})
            if number == 5:
                continue
            boxes += [
                {"id": 2 * number + k, "image_id": number, "category_id": (1, 90)[k], "bbox": [5 + 40 * k, 8, 32, 40],
                 "area": 1280, "iscrowd": 0}
                for k in range(2)
            ]  # fmt: skip
        content = {"images": images, "annotations": boxes, "categories": categories, "info": {}, "licenses": []}
        (root / "coco" / "annotations" / f"instances_{half}2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def resnet152(digits_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that a (very short) run of recipes/imagenet_r152_sddropout.py leaves."""
    out = tmp_path_factory.mktemp("r152")
    overrides = ["max_steps=1", "batch_size=2", "image_size=32", "precision=no", "eval_batch_size=400", "workers=1",
                 "trackers=[]", "crop_pct=1.0",
                 # Untrained, 152 layers that do not start from zero make numbers too large for a detector.
                 "model_args.zero_init_last=true"]  # fmt: skip
    run = train_recipe(ROOT / "recipes" / "imagenet_r152_sddropout.py", 0, digits_beton, out, overrides)
    return export_weights(run, out / "weights")


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small training on the digits, of 4 iterations."""
    out = tmp_path_factory.mktemp("digits-run") / "out"
    done = train_net("--config", "digits_demo.yaml", "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", str(out), *DIGITS)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def iterations(out: Path) -> int:
    return int(torch.load(out / "model_final.pth", weights_only=True)["iteration"]) + 1


def test_paper_config_trains_evaluates_is_killed_and_resumes(coco: Path, resnet152: Path, tmp_path: Path) -> None:
    # Four images have boxes: 2 epochs at batch 2 are 4 iterations.
    arguments = ["--config", "faster_rcnn_sdd.yaml", "--num-gpus", "1"]
    overrides = ["MODEL.TIMM.WEIGHTS", str(resnet152), "SOLVER.IMS_PER_BATCH", "2", "SKD.EPOCHS", "2",
                 "SOLVER.CHECKPOINT_PERIOD", "1", "OUTPUT_DIR", str(tmp_path / "out"), *SMALL]  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("of an attempt that ended before its first checkpoint")
    with (tmp_path / "first.txt").open("w") as log:
        process = subprocess.Popen(
            command(*arguments, *overrides), env=environment(coco), stdout=log, stderr=subprocess.STDOUT
        )
        wait_for(lambda: (out / "last_checkpoint").exists() or process.poll() is not None, 200)
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = (tmp_path / "first.txt").read_text()
    assert process.returncode == -signal.SIGKILL, first[-3000:]
    assert re.search(r"backbone: all \d+ tensors of .*resnet152.sdd_in1k.safetensors matched", first)
    assert (
        "schedule: 4 iterations = 2 epochs of 4 images at batch 2, drops at [3], lr 0.0025 = SKD.BASE_LR 0.02" in first
    )
    record = (out / "config.yaml").read_text()

    resnet152.rename(resnet152.with_suffix(".gone"))  # the checkpoint has all weights
    try:
        done = train_net(*arguments, "--resume", *overrides, datasets=coco)
    finally:
        resnet152.with_suffix(".gone").rename(resnet152)
    assert done.returncode == 0, done.stderr[-3000:]
    started = re.search(r"resumed at iteration (\d) of 4", done.stdout + done.stderr)
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
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        f"coco_2017_val_{number:012d}.png" for number in (1, 2)
    ]
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert any("total_loss" in line for line in lines)
    assert any("bbox/AP50" in line for line in lines)
    assert list(out.glob("events.out.tfevents*"))


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_dry_run_prints_cocos_iterations(tmp_path: Path) -> None:
    done = train_net("--config", "faster_rcnn_sdd.yaml", "--dry-run", cwd=tmp_path, datasets=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for part in (
        "51,304 iterations on the 117,266 annotated images, 51,751 on all 118,287",
        "87,950 iterations on the 117,266 annotated images, 88,716 on all 118,287",
        "87950 iterations = 12 epochs of 117266 images at batch 16, drops at [58633, 78178], lr 0.02",
        "there are no weights 'resnet152.sdd_in1k'",
    ):
        assert part in text
    assert list(tmp_path.iterdir()) == []
    done = train_net("--config-file", "faster_rcnn_ce_0.5x", "--dry-run", cwd=tmp_path, datasets=tmp_path)
    assert "51304 iterations = 7 epochs of 117266 images" in " ".join(done.stdout.split())


def test_evaluation_alone_gives_the_same_numbers(short_run: Path, tmp_path: Path) -> None:
    detector = short_run / "model_final.pth"
    done = train_net("--config", "digits_demo.yaml", "--eval-only", "MODEL.WEIGHTS", str(detector), "OUTPUT_DIR",
                     str(tmp_path / "evaluation"), *DIGITS)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert again == json.loads((short_run / "results.json").read_text())
    assert len(list((tmp_path / "evaluation" / "pictures").iterdir())) == 8


def test_saved_config_repeats_the_training(short_run: Path) -> None:
    from detection.config import load_config
    from detection.schedule import apply_schedule

    cfg = load_config(str(short_run / "config.yaml"))
    apply_schedule(cfg, 400)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (4, (3,), 0.02)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.parametrize("machines", [1, 2])
def test_two_processes_train_one_detector(machines: int, tmp_path: Path) -> None:
    """On one machine, and as two machines; the latter with SD-Dropout's heads."""
    url = f"tcp://127.0.0.1:{free_port()}"
    processes = []
    for machine in range(machines):
        arguments = ["--config", "digits_demo.yaml", "--num-gpus", str(2 // machines), "--num-machines", str(machines),
                     "--machine-rank", str(machine), "--dist-url", url, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR",
                     str(tmp_path / f"machine{machine}"), *DIGITS, "MODEL.ROI_HEADS.NAME",
                     "SDDropoutROIHeads" if machines == 2 else "StandardROIHeads"]  # fmt: skip
        processes.append(
            subprocess.Popen(
                command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * machines, outputs[0][-3000:]
    assert "World size: 2" in outputs[0]
    out = tmp_path / "machine0"
    assert iterations(out) == 2
    assert ("loss_sdd" in (out / "metrics.json").read_text()) == (machines == 2)
    results = json.loads((out / "results.json").read_text())["bbox"]
    assert "AP50" in results
    predictions = json.loads((out / "inference" / "skd_digits_val" / "coco_instances_results.json").read_text())
    assert {box["image_id"] for box in predictions} <= set(range(1, 101))


BAD = {
    "no config": ([], "give a config, for example --config faster_rcnn_sdd.yaml"),
    "unknown config": (["--config", "faster_rcnn_sd"], "unknown config 'faster_rcnn_sd'; did you mean"),
    "option after overrides": (["--config", "digits_demo", "SEED", "1", "--resume"], "--resume stands among"),
    "amp on a processor": (["--config", "digits_demo", "SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED needs a GPU"),
    "batch and processes": (["--config", "digits_demo", "--num-gpus", "3"], "IMS_PER_BATCH 8 does not divide into 3"),
    "no detector": (["--config", "digits_demo", "--eval-only"], "give MODEL.WEIGHTS FILE"),
    "detector not there": (["--config", "digits_demo", "MODEL.WEIGHTS", "no.pth"], "WEIGHTS no.pth does not exist"),
    "classes": (["--config", "digits_demo", "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "has 10 classes"),
    "weights": (["--config", "digits_demo", "MODEL.TIMM.WEIGHTS", "no.pth"], "no.pth does not exist"),
    "no data": (["--config", "faster_rcnn_ce"], "dataset coco_2017_train is not there"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detection import train_net as script

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
    from detection import train_net as script

    out = tmp_path / "out"
    shutil.copytree(short_run, out)
    for arguments, message in (
        (["SOLVER.MAX_ITER", "6", *DIGITS], "holds a training already; continue it with --resume"),
        (["SOLVER.MAX_ITER", "6", *DIGITS, "MODEL.FPN.OUT_CHANNELS", "24"], "is not this configuration's detector"),
    ):
        flags = ["--resume"] if "24" in arguments else []
        with pytest.raises(SystemExit):
            script.main(["--config", "digits_demo", *flags, "OUTPUT_DIR", str(out), *arguments])
        assert message in capsys.readouterr().err


def test_train_detector_trains_and_says_where_the_output_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `skd reproduce` and the demonstration do; a relative folder of data is the caller's."""
    monkeypatch.chdir(tmp_path)
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DETECTRON2_DATASETS": "sets"}
    overrides = ["SOLVER.MAX_ITER", "2", *TINY]
    scripts = ROOT / "detection"
    results = train_detector(scripts, "digits_demo", "resnet10t_digits.ce", Path("out"), overrides, environment)
    assert results == Path("out/results.json")
    assert "AP50" in json.loads(results.read_text())["bbox"]
    assert iterations(Path("out")) == 2
    with pytest.raises(SkdError, match="the training of the detector failed; all of its output is in coco/output.txt"):
        train_detector(scripts, "faster_rcnn_ce", "", Path("coco"), [], environment)
    looked_for = f"looked for {tmp_path / 'sets' / 'coco' / 'annotations' / 'instances_train2017.json'}"
    assert looked_for in capsys.readouterr().err
    assert looked_for in Path("coco/output.txt").read_text()
