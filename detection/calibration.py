"""Calibration of detections: how far scores are from precision (D-ECE), and from precision and place (LaECE)."""

import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from skd_plugins.evaluation.metrics import Reliability, bin_confidences

BINS = 25
_TOUCHING = 1e-9  # a threshold of 0 would match boxes that do not overlap


@dataclass(frozen=True)
class Detections:
    """What the report needs of each detection ``[N]``: COCO's class, score, whether it is right, and its area."""

    category: NDArray[np.float64]
    score: NDArray[np.float64]
    right: NDArray[np.bool_]
    area: NDArray[np.float64]

    def reliability(self, chosen: NDArray[np.bool_], bins: int = BINS) -> Reliability:
        """Of some of them."""
        return bin_confidences(self.score[chosen], self.right[chosen], bins)


def calibration(truth: Path, predictions: Path) -> tuple[dict[str, float], Detections]:
    """``D-ECE``, ``LaECE`` and ``D-ECE-CLASS`` in per cent, NaN without detections, and those.

    D-ECE is the sum over bins of the score of ``n_bin / n * |mean score - precision|``. A detection is right if its IoU
    with an object of its class is at least 0.5. LaECE is the same with the mean IoU in place of the precision, 0 for a
    wrong detection; right are all that touch an object of their class. It is computed for each class and averaged over
    those that have detections. Objects are matched as for AP: by descending score, each once, crowds left out.

    Source: Küppers et al. 2020 (D-ECE, of the score alone); Oksuz et al. 2023 (LaECE) with the threshold 0 and the 25
    bins of Kuzucu et al. 2024. All detections count, so numbers depend on ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``.

    Args:
        truth: COCO's annotation file.
        predictions: COCOEvaluator's file.
    """
    with redirect_stdout(StringIO()):
        objects = COCO(str(truth))
        names = {category["id"]: category["name"] for category in objects.loadCats(objects.getCatIds())}
        if not json.loads(predictions.read_text()):  # which pycocotools can't read
            empty, keys = np.zeros(0), ["D-ECE", "LaECE", *(f"D-ECE-{name}" for name in names.values())]
            return dict.fromkeys(keys, float("nan")), Detections(empty, empty, empty > 0, empty)
        found = objects.loadRes(str(predictions))
        category, score, iou, area = matched(objects, found, 0.5)
        classes, scores, overlap, _ = matched(objects, found, _TOUCHING)
    right = (iou > 0).astype(float)
    own = {f"D-ECE-{name}": error(score[category == key], right[category == key]) for key, name in names.items()}
    localised = [error(scores[classes == key], overlap[classes == key]) for key in np.unique(classes)]
    numbers = {"D-ECE": error(score, right), "LaECE": float(np.mean(localised)), **own}
    return numbers, Detections(category, score, iou > 0, area)


def matched(objects: COCO, found: COCO, threshold: float) -> tuple[NDArray[np.float64], ...]:
    """Class, score, IoU with the matched object and area ``[N]`` of each detection; the IoU is 0 without a match."""
    evaluation = COCOeval(objects, found, "bbox")
    settings = evaluation.params
    settings.iouThrs, settings.maxDets = np.array([threshold]), [100]
    settings.areaRng, settings.areaRngLbl = settings.areaRng[:1], ["all"]
    evaluation.evaluate()
    rows = []
    for image in filter(None, evaluation.evalImgs):
        key = image["image_id"], image["category_id"]
        columns = {box["id"]: number for number, box in enumerate(evaluation._gts[key])}
        matches = zip(image["dtMatches"][0], image["dtIgnore"][0], image["dtScores"], image["dtIds"], strict=True)
        for row, (match, ignored, score, number) in enumerate(matches):
            if not ignored:
                iou = evaluation.ious[key][row, columns[match]] if match else 0.0
                rows.append((key[1], score, iou, found.anns[number]["area"]))
    return tuple(np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def error(score: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The binned error of scores ``[N]`` against targets ``[N]`` in [0, 1], in per cent.

    Bin k is (k / 25, (k + 1) / 25]; the first one also has 0.
    """
    if not len(score):
        return float("nan")
    bins = np.digitize(score, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return float(100 * np.abs(np.bincount(bins, score - target)).sum() / len(score))
