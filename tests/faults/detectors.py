"""detection/train_net.py, killed, and with images and annotations as people have them."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .common import ROOT, Report, end, environment, refused, start

OPTIONS = """
MODEL.TIMM.NAME resnet10t  MODEL.TIMM.ARGS.channels [8,8,16,16]  MODEL.FPN.OUT_CHANNELS 16
MODEL.ROI_BOX_HEAD.FC_DIM 16  MODEL.RPN.POST_NMS_TOPK_TRAIN 20  MODEL.RPN.POST_NMS_TOPK_TEST 20
INPUT.MIN_SIZE_TRAIN (64,)  INPUT.MIN_SIZE_TEST 64  DATALOADER.NUM_WORKERS 1  SOLVER.IMS_PER_BATCH 1
SOLVER.MAX_ITER 12  SOLVER.STEPS (8,)  SOLVER.CHECKPOINT_PERIOD 2  TEST.EVAL_PERIOD 0
TEST.DETECTIONS_PER_IMAGE 10  SEED 1
"""


def coco(root: Path) -> Path:
    """A DETECTRON2_DATASETS with six images of noise, five boxes each, of the first and the last category."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES  # heavy, and not in all environments

    draw = np.random.default_rng(0)
    categories = [{"id": entry["id"], "name": entry["name"]} for entry in COCO_CATEGORIES if entry["isthing"]]
    (root / "coco" / "annotations").mkdir(parents=True)
    for half in ("train", "val"):
        folder = root / "coco" / f"{half}2017"
        folder.mkdir()
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number in range(1, 7):
            file = f"{number:012d}.jpg"
            Image.fromarray(draw.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(folder / file)
            images.append({"id": number, "file_name": file, "height": 96, "width": 128})
            for _ in range(5):
                x, y = int(draw.integers(80)), int(draw.integers(60))
                box = {"id": len(boxes) + 1, "image_id": number, "bbox": [x, y, 30, 24]}
                box["category_id"] = (1, 90)[len(boxes) % 2]
                boxes.append(box | {"area": 720, "iscrowd": 0, "segmentation": [[x, y, x + 30, y, x + 30, y + 24]]})
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "coco" / "annotations" / f"instances_{half}2017.json").write_text(json.dumps(content))
    return root


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        path = root / "coco" / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


PICTURE = f"{3:012d}.jpg"


def _picture(root: Path) -> Path:
    return root / "coco" / "train2017" / PICTURE


# name: what is done to the data, and what the message has to contain; None if the training has to go on
CASES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "broken image": (lambda root: _picture(root).write_bytes(_picture(root).read_bytes()[:300]), PICTURE),
    "missing image": (lambda root: _picture(root).unlink(), PICTURE),
    "boxes outside": (_edit(lambda c: c["annotations"][0].update(bbox=[-50.0, -50.0, 60.0, 500.0])), None),
    "boxes without size": (_edit(lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 0])), None),
    "images without boxes": (_edit(lambda c: c.update(annotations=c["annotations"][:5])), None),
    "no annotations": (_edit(lambda c: c.update(annotations=[])), "annotation"),
    "another image's size": (_edit(lambda c: c["images"][2].update(height=50)), PICTURE),
}


def run(count: int, folder: Path) -> Report:
    """The first `count` cases, the last of them a kill and a continuation."""
    report = Report()
    for number, name in enumerate(list(CASES)[: max(count - 1, 0)]):
        report.add(*case(name, folder / f"case{number}"))
    _killed(report, folder)
    return report


def case(name: str, folder: Path) -> tuple[str, bool, str]:
    damage, words = CASES[name]
    root = coco(folder / "data")
    damage(root)
    done = end(_train(root, folder / "out"), 300)
    shutil.rmtree(root)
    story = f"{name}: {done.returncode} {done.stderr}"
    if words is None:
        return "trained", done.returncode == 0, story
    return "refused with the reason", refused(done.returncode, done.stderr, words), story


def _train(root: Path, out: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    file = ROOT / "detection" / "train_net.py"
    settings = environment(DETECTRON2_DATASETS=str(root), CUDA_VISIBLE_DEVICES="")
    arguments = ["--config", "faster_rcnn_sdd_0.5x.yaml", *more, "OUTPUT_DIR", out, "MODEL.TIMM.WEIGHTS", ""]
    return start(file, *arguments, *OPTIONS.split(), env=settings, **options)


def _killed(report: Report, folder: Path) -> None:
    root, out = coco(folder / "data"), folder / "killed"
    with (folder / "killed.txt").open("w") as log:
        process = _train(root, out, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (out / "last_checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.Random(0).uniform(0, 1))
    hit = process.poll() is None
    if hit:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = end(_train(root, out, "--resume"), 300)
    fine = hit and done.returncode == 0 and (out / "model_final.pth").exists()
    report.add("killed and continued", fine, f"hit {hit}: {done.returncode} {done.stderr}")
