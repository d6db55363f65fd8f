"""Calibration of detections against matching and binning by hand, and what has to come out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.calibration import BINS, calibration, error

CATEGORIES = [{"id": 3, "name": "bolt"}, {"id": 7, "name": "nut"}, {"id": 9, "name": "washer"}]


def write(folder: Path, objects: list[dict[str, Any]], found: list[dict[str, Any]]) -> tuple[Path, Path]:
    images = [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 100} for number in range(30)]
    whole = [
        {"id": n + 1, "iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3]} | box for n, box in enumerate(objects)
    ]
    paths = folder / "truth.json", folder / "found.json"
    paths[0].write_text(json.dumps({"images": images, "annotations": whole, "categories": CATEGORIES}))
    paths[1].write_text(json.dumps(found))
    return paths


def box(image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(bbox)} | more


def test_numbers_by_hand(tmp_path: Path) -> None:
    objects = [box(0, 3, 10, 10, 20, 20), box(0, 7, 60, 60, 20, 20), box(1, 3, 0, 0, 50, 50, iscrowd=1)]
    found = [
        box(0, 3, 10, 10, 20, 20, score=0.9),  # IoU 1
        box(0, 3, 12, 10, 20, 20, score=0.89),  # IoU 9 / 11, but the object is taken
        box(0, 7, 60, 70, 20, 20, score=0.5),  # IoU 1 / 3: right for LaECE only
        box(1, 3, 5, 5, 10, 10, score=0.7),  # in a crowd: does not count
    ]
    result, detections = calibration(*write(tmp_path, objects, found))
    assert sorted(detections.area) == [400, 400, 400]
    assert detections.right.tolist() == [True, False, False]
    assert detections.reliability(detections.category == 3).ece == pytest.approx(0.79 / 2)
    # 0.9 and 0.89 share the bin (0.88, 0.92]: |1.79 - 1| ; then |0.5 - 0|.
    assert result["D-ECE"] == pytest.approx(100 * (0.79 + 0.5) / 3)
    assert result["D-ECE-bolt"] == pytest.approx(100 * 0.79 / 2)
    assert result["D-ECE-nut"] == pytest.approx(50)
    assert math.isnan(result["D-ECE-washer"])
    assert result["LaECE"] == pytest.approx(100 * (0.79 / 2 + abs(0.5 - 1 / 3)) / 2)


def test_against_another_matching_on_random_boxes(tmp_path: Path) -> None:
    """Written anew, in loops: greedy matching, IoU, bins."""
    draw = np.random.default_rng(0)

    def some(count: int) -> list[dict[str, Any]]:
        return [
            box(int(draw.integers(30)), int(draw.choice([3, 7, 9])), *draw.integers(0, 60, 2).tolist(),
                *draw.integers(20, 40, 2).tolist()) for _ in range(count)
        ]  # fmt: skip

    objects, found = some(200), [one | {"score": float(draw.uniform())} for one in some(400)]
    result, _ = calibration(*write(tmp_path, objects, found))

    def overlap(a: list[float], b: list[float]) -> float:
        sides = [max(0, min(a[n] + a[n + 2], b[n] + b[n + 2]) - max(a[n], b[n])) for n in (0, 1)]
        return sides[0] * sides[1] / (a[2] * a[3] + b[2] * b[3] - sides[0] * sides[1])

    def match(threshold: float) -> list[tuple[int, float, float]]:
        taken, rows = set(), []
        for one in sorted(found, key=lambda one: -one["score"]):
            ious = {
                n: overlap(one["bbox"], other["bbox"]) for n, other in enumerate(objects)
                if n not in taken and all(one[key] == other[key] for key in ("image_id", "category_id"))
            }  # fmt: skip
            best = max(ious, key=ious.__getitem__) if ious else -1
            fits = best >= 0 and ious[best] >= threshold and ious[best] > 0
            taken |= {best} if fits else set()
            rows.append((one["category_id"], one["score"], ious[best] if fits else 0.0))
        return rows

    def binned(pairs: list[tuple[float, float]]) -> float:
        total = 0.0
        for number in range(BINS):
            inside = [(s, t) for s, t in pairs if number / BINS < s <= (number + 1) / BINS]
            if inside:
                gap = abs(np.mean([s for s, _ in inside]) - np.mean([t for _, t in inside]))
                total += len(inside) / len(pairs) * gap
        return 100 * total

    strict, loose = match(0.5), match(0)
    assert 0.02 < np.mean([iou > 0 for _, _, iou in strict]) < np.mean([iou > 0 for _, _, iou in loose]) < 0.9
    assert result["D-ECE"] == pytest.approx(binned([(s, float(iou > 0)) for _, s, iou in strict]))
    each = [binned([(s, iou) for c, s, iou in loose if c == key]) for key in (3, 7, 9)]
    assert result["LaECE"] == pytest.approx(np.mean(each))


def test_a_calibrated_detector_has_no_error_and_a_wrong_one_its_score() -> None:
    score = np.repeat([0.0, 0.25, 0.5, 1.0], 100)
    right = np.concatenate([np.arange(100) < 100 * value for value in (0, 0.25, 0.5, 1)]).astype(float)
    assert error(score, right) == 0
    assert error(score, np.zeros(400)) == pytest.approx(100 * 1.75 / 4)
    assert error(1 - score, right) == pytest.approx(100 * (1 + 0.5 + 0 + 1) / 4)


def test_nothing_found(tmp_path: Path) -> None:
    result, detections = calibration(*write(tmp_path, [box(0, 3, 10, 10, 20, 20)], []))
    assert len(detections.score) == 0
    assert set(result) == {"D-ECE", "LaECE", "D-ECE-bolt", "D-ECE-nut", "D-ECE-washer"}
    assert all(math.isnan(value) for value in result.values())
