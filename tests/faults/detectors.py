"""detection/train_net.py, killed, and with images and annotations as people have them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import ROOT, Report, environment

CONFIG = "faster_rcnn_sdd_0.5x.yaml"
OPTIONS = [
    "MODEL.TIMM.NAME",
    "resnet10t",
    "MODEL.TIMM.ARGS.channels",
    "[8, 8, 16, 16]",
    "MODEL.TIMM.WEIGHTS",
    "",
    "INPUT.MIN_SIZE_TRAIN",
    "(64,)",
    "INPUT.MIN_SIZE_TEST",
    "64",
    "DATALOADER.NUM_WORKERS",
    "1",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "16",
    "MODEL.FPN.OUT_CHANNELS",
    "16",
    "SOLVER.IMS_PER_BATCH",
    "1",
    "SOLVER.MAX_ITER",
    "12",
    "SOLVER.STEPS",
    "(8,)",
    "SOLVER.CHECKPOINT_PERIOD",
    "2",
    "TEST.EVAL_PERIOD",
    "0",
    "SEED",
    "1",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "20",
    "TEST.DETECTIONS_PER_IMAGE",
    "10",
]


def coco(root: Path) -> Path:
    """A DETECTRON2_DATASETS with six images of noise, five boxes each."""
    import numpy as np
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from PIL import Image

    draw = np.random.default_rng(0)
    (root / "coco" / "annotations").mkdir(parents=True)
    for half in ("train", "val"):
        folder = root / "coco" / f"{half}2017"
        folder.mkdir()
        images, boxes = [], []
        for number in range(1, 7):
            Image.fromarray(draw.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(folder / f"{number:012d}.jpg")
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 96, "width": 128})
            for _ in range(5):
                x, y = int(draw.integers(80)), int(draw.integers(60))
                boxes.append(
                    {
                        "id": len(boxes) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "bbox": [x, y, 30, 24],
                        "area": 720,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + 30, y, x + 30, y + 24]],
                    }
                )
        categories = [{"id": entry["id"], "name": entry["name"]} for entry in COCO_CATEGORIES if entry["isthing"]]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "coco" / "annotations" / f"instances_{half}2017.json").write_text(json.dumps(content))
    return root


def _edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _picture(root: Path) -> Path:
    return root / "coco" / "train2017" / f"{3:012d}.jpg"


# name: what is done to the data, whether the training goes on, what the message has to contain
CASES: dict[str, tuple[Callable[[Path], object], bool, str]] = {
    "broken image": (
        lambda root: _picture(root).write_bytes(_picture(root).read_bytes()[:300]),
        False,
        "000000000003.jpg",
    ),
    "missing image": (lambda root: _picture(root).unlink(), False, "000000000003.jpg"),
    "boxes outside": (
        lambda root: _edit(root, lambda c: c["annotations"][0].update(bbox=[-50.0, -50.0, 60.0, 500.0])),
        True,
        "",
    ),
    "boxes without size": (lambda root: _edit(root, lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 0])), True, ""),
    "images without boxes": (
        lambda root: _edit(root, lambda c: c.update(annotations=c["annotations"][:5])),
        True,
        "",
    ),
    "no annotations": (lambda root: _edit(root, lambda c: c.update(annotations=[])), False, "annotation"),
    "another image's size": (
        lambda root: _edit(root, lambda c: c["images"][2].update(height=50)),
        False,
        "000000000003.jpg",
    ),
}


def run(count: int, folder: Path) -> Report:
    """The first `count` cases, the last of them a kill and a continuation."""
    report = Report()
    for number, (name, (damage, goes_on, words)) in enumerate(list(CASES.items())[: max(count - 1, 0)]):
        root = coco(folder / f"data{number}")
        damage(root)
        code, text = _train(root, folder / f"out{number}")
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        fine = code == 0 if goes_on else code == 2 and len(lines) == 1 and words in lines[0] and "Traceback" not in text
        report.add("trained" if goes_on else "refused with the reason", fine, f"{name}: {code} {text}")
        shutil.rmtree(root)
    _killed(report, folder)
    return report


def _command(out: Path, *more: str) -> list[str]:
    script = str(ROOT / "detection" / "train_net.py")
    return [sys.executable, script, "--config", CONFIG, *more, "OUTPUT_DIR", str(out), *OPTIONS]


def _train(root: Path, out: Path, *more: str) -> tuple[int, str]:
    settings = environment(DETECTRON2_DATASETS=str(root), CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(_command(out, *more), env=settings, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def _killed(report: Report, folder: Path) -> None:
    root, out = coco(folder / "data"), folder / "killed"
    settings = environment(DETECTRON2_DATASETS=str(root), CUDA_VISIBLE_DEVICES="")
    log = (folder / "killed.txt").open("w")
    process = subprocess.Popen(_command(out), env=settings, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (out / "last_checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.Random(0).uniform(0, 1))
    hit = process.poll() is None
    if hit:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, text = _train(root, out, "--resume")
    fine = hit and code == 0 and (out / "model_final.pth").exists()
    report.add("killed and continued", fine, f"hit {hit}: {code} {text}")
