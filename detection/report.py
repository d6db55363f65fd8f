"""``report.html`` of an evaluation: AP and calibration by class and by size, and pictures, in one file."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skd_plugins.evaluation.html import data_uri, write_page
from skd_plugins.evaluation.svg import reliability_plot

from .calibration import Detections, error

_TEMPLATE = Path(__file__).with_name("templates") / "detector.html.jinja"
_WORDS = ("score", "precision", "detections")
_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}  # COCO's areas
_PLOTTED = 12  # classes with a diagram
_WIDE = 640  # pixels of a picture


def write_report(
    path: Path,
    title: str,
    dataset: str,
    truth: Path,
    results: Mapping[str, Mapping[str, float]],
    found: Detections,
    pictures: Sequence[Path],
    info: Mapping[str, Any],
) -> Path:
    """Writes the page and returns its path.

    Args:
        title: of the page; `dataset` stands below it.
        truth: COCO's annotation file.
        results: in per cent, as in ``results.json``: ``bbox``, perhaps ``segm``, and ``calibration``.
        info: settings, for the last table.
    """
    content = json.loads(truth.read_text())
    box, calibrated = results["bbox"], results["calibration"]
    counts = Counter(one["category_id"] for one in content["annotations"] if not one.get("iscrowd"))
    classes = []
    for category in content["categories"]:
        name, own = category["name"], found.category == category["id"]
        ap = box.get(f"AP-{name}", box["AP"] if len(content["categories"]) == 1 else math.nan)
        classes.append(_group(name, ap, found, own) | {"objects": counts[category["id"]]})
    classes.sort(key=lambda one: (one["ap"] != one["ap"], one["ap"], one["name"]))
    most = sorted(classes, key=_detections)[-_PLOTTED:]
    sizes = [
        _group(name, box[f"AP{name[0]}"], found, (found.area >= low) & (found.area < high))
        for name, (low, high) in _SIZES.items()
    ]
    everything = np.ones(len(found.score), bool)
    write_page(
        path, _TEMPLATE, title=title, dataset=dataset, images=len(content["images"]), objects=sum(counts.values()),
        detections=len(found.score), box={key: box[key] / 100 for key in ("AP", "AP50", "AP75")},
        mask=results["segm"]["AP"] / 100 if "segm" in results else None,
        dece=calibrated["D-ECE"] / 100, laece=calibrated["LaECE"] / 100,
        overall=reliability_plot(found.reliability(everything), words=_WORDS) if len(found.score) else "",
        sizes=sizes, classes=classes,
        limited=len(most) < len(classes), plotted=[one for one in classes if one["plot"] and one in most],
        pictures=[(one.stem, data_uri(np.asarray(Image.open(one)), _WIDE)) for one in pictures], info=info,
    )  # fmt: skip
    return path


def _detections(group: Mapping[str, Any]) -> int:
    return int(group["count"])


def _group(name: str, ap: float, found: Detections, chosen: Any) -> dict[str, Any]:
    """A row of a table with its diagram; fractions. The diagram has 10 bins, as there are few detections."""
    plot = reliability_plot(found.reliability(chosen, 10), small=True, words=_WORDS) if chosen.any() else ""
    dece = error(found.score[chosen], found.right[chosen].astype(float)) / 100
    return {"name": name, "ap": ap / 100, "count": int(chosen.sum()), "dece": dece, "plot": plot}
