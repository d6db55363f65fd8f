"""Files with random damage: every one is refused, or left out and counted, or gives what the sound one gives.

The cases run in forks of this process, so that a crash or a hang is one case and not the end of the campaign.
"""

import faulthandler
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from skd_plugins import SkdError, export_weights, make_loader, replace, train
from skd_plugins.data import write_beton
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.sources import image_folder
from skd_plugins.weights import read_weights
from skd_plugins.weights.load import load_network
from skd_plugins.weights.manifest import load_manifest

from .common import ROOT, TINY, Fork, Report, tiny_data

PATIENCE = 60.0  # seconds for one case


def run(count: int, folder: Path) -> Report:
    """About `count` cases, over all kinds."""
    report = Report()
    prepare(folder)
    for kind, (_, share) in KINDS.items():
        report.merge(run_kind(kind, max(4, count * share // sum(share for _, share in KINDS.values())), folder))
    return report


def run_kind(kind: str, cases: int, folder: Path) -> Report:
    """Cases of a kind, in as few processes as crashes allow."""
    report, next_case, log = Report(), 0, folder / "said.txt"
    while next_case < cases:
        results, end = multiprocessing.Pipe(duplex=False)
        process = Fork(lambda first=next_case, end=end: _work(kind, folder, range(first, cases), end), log)
        end.close()
        ended = ""
        while next_case < cases and not ended:
            try:
                ended = "" if results.poll(PATIENCE) else "hang"
                outcome, fine, story = (ended, False, log.read_text()) if ended else results.recv()
            except EOFError:
                ended = f"crash ({process.end().returncode})"
                outcome, fine, story = ended, False, log.read_text()
            report.add(f"{kind}: {outcome}", fine, f"case {next_case}: {story}")
            next_case += 1
        process.kill()
    return report


def _work(kind: str, folder: Path, numbers: range, results: Connection) -> None:
    """Runs cases and sends the outcome of each, whether it is fine, and its story."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))  # a size of terabytes is an error, not a dead machine
    for number in numbers:
        work = folder / f"work-{kind.replace(' ', '-')}-{number}"
        work.mkdir()
        began = time.monotonic()
        try:
            outcome, fine, story = KINDS[kind][0](folder / "sound", work, random.Random(f"{kind}{number}")), True, ""
        except SkdError as error:
            outcome, fine, story = "refused", "\n" not in str(error) and len(str(error)) > 20, f"message: {error}"
            outcome = outcome if fine else "refused with a bad message"
        except Exception:
            outcome, fine, story = "unforeseen exception", False, traceback.format_exc()
        if time.monotonic() - began > PATIENCE / 2:
            outcome, fine = "slow", False
        shutil.rmtree(work)
        results.send((outcome, fine, story))


def prepare(folder: Path) -> None:
    """Sound files of all kinds, made by the package itself."""
    if not (folder / "sound").exists():
        tiny_data()
        done = Fork(lambda: _prepare(folder), folder / "said.txt").end()
        assert done.returncode == 0, done.stderr


def _prepare(folder: Path) -> None:
    making = folder / "making"
    draw = np.random.default_rng(0)
    for kind in ("jpg", "png"):
        for index in range(8):
            top, left = int(draw.integers(300)), int(draw.integers(500))
            picture = load_sample_images().images[index % 2][top : top + 60 + index, left : left + 80]
            place = making / kind / "train" / f"class{index % 3}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(picture)).save(place / f"{index}.{kind}", quality=90)
    write_beton(image_folder(making / "jpg" / "train"), making / "train.beton", workers=1, raw_share=0.4)
    run = train(replace(TINY, epochs=1, max_steps=1), data=str(tiny_data()["beton"]), out=making / "run")
    shutil.copy(run / "last.pt", making / "last.pt")
    export_weights(run, making, name="tiny.fault")
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 60 + n, "width": 80} for n in range(8)]
    boxes = [
        {"id": n + 1, "image_id": n % 8, "category_id": 1 + n % 2, "bbox": [1.0 + n, 2.0, 20.0, 30.5], "area": 610.0,
         "iscrowd": int(n == 9), "segmentation": []} for n in range(12)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (making / "coco.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    shutil.copy(ROOT / "skd_plugins" / "weights" / "manifest.json", making / "manifest.json")
    os.replace(making, folder / "sound")


# ---- damage ----------------------------------------------------------------------------------------------------------


def damaged(data: bytes, draw: random.Random, begin: int = 0, end: int | None = None) -> bytes:
    """Flipped bits, random and zeroed stretches, cuts and insertions somewhere from `begin` to `end`."""
    end = len(data) if end is None else end
    result = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at, length = draw.randrange(begin, end), draw.choice([1, 1, 2, 4, 8, 100, 2000])
        length = min(length, end - at)
        kind = draw.randrange(6)
        if kind == 0:
            result[at] ^= 1 << draw.randrange(8)
        elif kind in (1, 2):
            result[at : at + length] = draw.randbytes(length) if kind == 1 else bytes(length)
        elif kind == 3:
            result[at : at + length] = b"\xff" * length
        elif kind == 4 and begin == 0:
            del result[at : at + (length if draw.random() < 0.7 else len(result))]
        elif begin == 0:
            result[at:at] = draw.randbytes(length)
        end = min(end, len(result))
        if end <= begin:
            break
    return bytes(result)


ODD: list[Any] = [None, True, -1, 0, 1, 2**40, 1e300, float("nan"), "", "x", "../../etc/passwd", "a" * 3000, [], {},
                  [[]], {"x": 1}, [1, "a", None], "\ud83d\ude00\u0000", -0.5]  # fmt: skip


def damaged_json(text: str, draw: random.Random) -> str:
    """A value replaced by an odd one, a key or an entry removed or doubled, or damaged text."""
    if draw.random() < 0.2:
        return damaged(text.encode(), draw).decode("utf-8", errors="surrogateescape")
    value = json.loads(text)
    for _ in range(draw.choice([1, 1, 2])):
        places: list[tuple[Any, Any]] = []

        def walk(node: Any, places: list[tuple[Any, Any]] = places) -> None:
            for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
                places.append((node, key))
                walk(node[key])

        walk(value)
        if not places:
            break
        node, key = draw.choice(places)
        action = draw.random()
        if action < 0.6:
            node[key] = draw.choice(ODD)
        elif action < 0.85:
            del node[key]
        elif isinstance(node, list):
            node.append(node[key])
        else:
            node[f"{key}_"] = node.pop(key)
    return json.dumps(value)


# ---- one case of each kind: an outcome, or SkdError ------------------------------------------------------------------


def _loader(path: Path, skip: bool) -> tuple[list[Any], dict[int, str]]:
    loader = make_loader(path, train=False, batch_size=4, image_size=32, workers=0, skip_broken=skip)
    return [(int(t), zlib.crc32(x.numpy().tobytes())) for xs, ts in loader for x, t in zip(xs, ts, strict=True)], (
        loader.skipped
    )


def _beton(where: str) -> Callable[[Path, Path, random.Random], str]:
    def case(sound: Path, work: Path, draw: random.Random) -> str:
        for ending in ("", ".json", ".crc32"):
            shutil.copy(sound / f"train.beton{ending}", work)
        path = work / "train.beton"
        whole = path.read_bytes()
        # header, fields and samples come first, the images at pages of 8 MB, the index at the end
        table = int.from_bytes(whole[16:24], "little")
        if where == "description":
            path = work / f"train.beton{draw.choice(['.json', '.crc32'])}"
            path.write_bytes(damaged(path.read_bytes(), draw))
        elif where == "images":
            first, last = _images(sound)
            path.write_bytes(damaged(whole, draw, first, last))
        else:
            first, last = draw.choice([(0, 2500), (0, 2500), (table, len(whole))])
            changed = damaged(whole[first:last], draw)
            path.write_bytes(whole[:first] + changed + whole[last:])
        good, _ = _loader(sound / "train.beton", False)
        got, skipped = _loader(work / "train.beton", True)
        expected = [entry for index, entry in enumerate(good) if index not in skipped]
        if got != expected:
            raise Silent(f"other images or labels, {len(skipped)} left out, no error")
        return "left out and counted" if skipped else "as the sound file"

    return case


def _images(sound: Path) -> tuple[int, int]:
    data = BetonFile(sound / "train.beton")
    return int(data._pointers.min()), int((data._pointers + data._sizes).max())


def _folder(kind: str) -> Callable[[Path, Path, random.Random], str]:
    def case(sound: Path, work: Path, draw: random.Random) -> str:
        shutil.copytree(sound / kind / "train", work / "train")
        victim = draw.choice(sorted((work / "train").rglob(f"*.{kind}")))
        victim.write_bytes(damaged(victim.read_bytes(), draw))
        good, _ = _loader(sound / kind / "train", False)
        got, skipped = _loader(work / "train", True)
        if len(got) + len(skipped) != len(good) or [t for t, _ in got] != [
            t for index, (t, _) in enumerate(good) if index not in skipped
        ]:
            raise Silent("other labels")
        changed = len(set(good) - set(got)) - len(skipped)
        return "left out and counted" if skipped else "decodable, other pixels" if changed else "as the sound file"

    return case


def _weights(name: str) -> Callable[[Path, Path, random.Random], str]:
    def case(sound: Path, work: Path, draw: random.Random) -> str:
        for file in ("last.pt", "tiny.fault.safetensors", "tiny.fault.json"):
            shutil.copy(sound / file, work)
        path = work / name
        if name.endswith(".json"):
            path.write_text(damaged_json(path.read_text(), draw), errors="surrogateescape")
            path = work / "tiny.fault.safetensors"
        else:
            path.write_bytes(damaged(path.read_bytes(), draw))
        model, _ = load_network(path)
        good, _ = read_weights(sound / path.name)
        if any(not torch.equal(value, good[key]) for key, value in model.state_dict().items()):
            raise Silent("other weights")
        return "as the sound file" if not name.endswith(".json") else "usable card"

    return case


def _manifest(sound: Path, work: Path, draw: random.Random) -> str:
    path = work / "manifest.json"
    path.write_text(damaged_json((sound / "manifest.json").read_text(), draw), errors="surrogateescape")
    releases = load_manifest(path)
    assert all("/" not in file.name for release in releases.values() for file in release.files)
    return "still a manifest"


def _coco(sound: Path, work: Path, draw: random.Random) -> str:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    from detection.config import load_config
    from detection.datasets import check_datasets, size_of
    from detection.trainer import Trainer

    path = work / "coco.json"
    path.write_text(damaged_json((sound / "coco.json").read_text(), draw), errors="surrogateescape")
    images = work / "images"
    images.mkdir()
    for file in (sound / "jpg" / "train").rglob("*.jpg"):
        shutil.copy(file, images)
    name = f"coco_{work.name}"
    register_coco_instances(name, {}, str(path), str(images))
    try:
        options = ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1",
                   "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]  # fmt: skip
        cfg = load_config(str(ROOT / "detection" / "configs" / "faster_rcnn_ce.yaml"), options)
        size_of(name)
        check_datasets(cfg)
        batches = iter(Trainer.build_train_loader(cfg))
        for _ in range(10):
            for record in next(batches):
                boxes = record["instances"].gt_boxes.tensor
                assert boxes.isfinite().all(), "boxes that are not finite"
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return "still usable"


class Silent(Exception):
    """Damage that nobody noticed."""


# How a file of a kind is damaged and used, which returns an outcome or raises SkdError; the kind's share of the cases.
KINDS: dict[str, tuple[Callable[[Path, Path, random.Random], str], int]] = {
    "beton tables": (_beton("tables"), 5),
    "beton images": (_beton("images"), 3),
    "beton description": (_beton("description"), 2),
    "folder jpeg": (_folder("jpg"), 5),
    "folder png": (_folder("png"), 5),
    "checkpoint": (_weights("last.pt"), 1),
    "safetensors": (_weights("tiny.fault.safetensors"), 1),
    "card": (_weights("tiny.fault.json"), 1),
    "manifest": (_manifest, 1),
    "coco": (_coco, 1),
}
