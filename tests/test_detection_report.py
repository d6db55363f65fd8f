"""The report of a detector's evaluation, as a real browser shows it."""

import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_detection_calibration import box
from test_report import EVIL, assert_self_contained, measure, text_of

from detection.calibration import calibration
from detection.report import write_report

NAMES = {3: "bolt", 7: EVIL, 9: "washer"}
BOX = {"AP": 41.25, "AP50": 60.0, "AP75": 30.0, "APs": 10.0, "APm": 50.0, "APl": math.nan, "AP-bolt": 71.5,
       f"AP-{EVIL}": 11.0, "AP-washer": math.nan}  # fmt: skip


def page(folder: Path, found: list[dict[str, Any]], results: dict[str, Any] | None = None) -> Path:
    """Two bolts and a nut, and two small bolts of which one is found, and a picture."""
    objects = [
        box(0, 3, 10, 10, 20, 20),
        box(0, 7, 50, 50, 40, 40),
        box(1, 3, 0, 0, 20, 20),
        box(1, 3, 60, 0, 9, 9, iscrowd=1),
    ]
    objects = [{"id": n + 1, "iscrowd": 0, "area": 400} | one for n, one in enumerate(objects)]
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    images = [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 100} for number in range(5)]
    truth, predictions = folder / "truth.json", folder / "found.json"
    truth.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    predictions.write_text(json.dumps(found))
    picture = folder / "0001 <x>.png"
    noise = np.random.default_rng(0).integers(0, 255, (502, 960, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    numbers, detections = calibration(truth, predictions)
    results = {"bbox": BOX, "calibration": numbers} | (results or {})
    return write_report(
        folder / "report.html", f"run {EVIL}", "own_val", truth, results, detections, [picture], {"weights": "a&b"}
    )


FOUND = [
    box(0, 3, 10, 10, 20, 20, score=0.75),  # right
    box(1, 3, 60, 60, 20, 20, score=0.25),  # wrong
    box(0, 7, 50, 50, 40, 40, score=0.5),  # right, medium
]


@pytest.mark.browser
def test_report_in_the_browser(browse: Callable[..., str], tmp_path: Path) -> None:
    path = page(tmp_path, FOUND, {"segm": {"AP": 33.0}})
    dom = browse(path)
    assert_self_contained(dom)
    assert EVIL not in dom
    text = text_of(dom)
    assert f"run {EVIL} own_val: 5 images, 3 objects of 3 classes; 3 detections" in text
    for part in (
        "AP 41.2 %", "AP50 60.0 %", "Mask AP 33.0 %",
        "D-ECE 33.3 %",  # (|0.75 - 1| + |0.25 - 0| + |0.5 - 1|) / 3
        "small 10.0 % 2 25.0 %", "medium 50.0 % 1 50.0 %", "large – 0 –",
        f"{EVIL} 11.0 % 1 1 50.0 %", "bolt 71.5 % 2 2 25.0 %", "washer – 0 0 –",
    ):  # fmt: skip
        assert part in text, text
    rows = re.findall(r'<td class="text">(.*?)</td>', path.read_text())
    assert [html.unescape(row) for row in rows] == [EVIL, "bolt", "washer"], "the worst first, without objects last"
    assert dom.count('aria-label="Reliability diagram"') == 1 + 2 + 2, "all, small, medium, two classes"
    assert "score 72% to 76%: 1 detections, precision 100.0%, mean score 75.0%" in text
    phone, desk = measure(browse, path)
    assert phone["overflow"] == desk["overflow"] == 0
    assert phone["loaded"] == desk["loaded"] == 1
    assert path.stat().st_size < 300_000, "of noise, which JPEG can't compress"


def test_nothing_found_and_one_class(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, []).read_text())
    assert "0 detections" in text
    assert "D-ECE –" in text
    assert "Reliability of detections" not in text
