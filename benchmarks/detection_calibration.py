"""SD-Dropout in a detector's box head against none: AP and calibration on the digits detection set, five seeds.

Faster R-CNN (detection/configs/digits_demo.yaml, 6 epochs) on the backbone `resnet10t_digits.ce`. The weight of
SD-Dropout is chosen with another seed on 100 of the 400 training images, after training on the other 300; the test
images are not touched until then. A stopped study continues; what is complete is not repeated. 30 minutes of a core.

Run: python benchmarks/detection_calibration.py [--out runs/detection-calibration]
     python benchmarks/detection_calibration.py --page   # the committed numbers into docs/detection.md
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence_page import between
from rounds import ROOT

sys.path.insert(0, str(ROOT))  # the package `detection`, before the benchmark of this name
from skd_plugins.commands.study import summarise
from skd_plugins.common.environment import environment
from skd_plugins.common.files import write_json
from skd_plugins.training.project import train_detector

RESULTS = Path(__file__).with_name("results") / "detection_calibration.json"
BACKBONE = "resnet10t_digits.ce"
WEIGHTS = (0.01, 0.03, 0.1, 1.0, 10.0)
SEEDS = (1, 2, 3, 4, 5)
DEFAULT = 0.1  # SD_DROPOUT.WEIGHT of detection/config.py
PLAIN = "without"
COLUMNS = ("AP", "AP50", "D-ECE", "LaECE")
SETTINGS = ["SKD.EPOCHS", "6", "SKD.VISUALIZE", "0", "DATALOADER.NUM_WORKERS", "0"]


def detector(out: Path, seed: int, weight: float | None, more: list[str]) -> dict[str, float]:
    """Trains unless it is done; the columns' values in per cent."""
    heads = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads" if weight is None else "SDDropoutROIHeads"]
    dropout = [] if weight is None else ["MODEL.ROI_HEADS.SD_DROPOUT.WEIGHT", str(weight)]
    results, begin = out / "results.json", time.monotonic()
    if not results.exists():
        settings = [*SETTINGS, "SEED", str(seed), *heads, *dropout, *more]
        train_detector(ROOT / "detection", "digits_demo", BACKBONE, out, settings, {"OMP_NUM_THREADS": "1"})
        print(f"{out.name}: {time.monotonic() - begin:.0f} s", flush=True)
    return numbers_of(results)


def numbers_of(results: Path, columns: Sequence[str] = COLUMNS) -> dict[str, float]:
    """The columns' values in per cent."""
    content = json.loads(results.read_text())
    numbers: dict[str, float] = content["bbox"] | content["calibration"]
    return {key: math.nan if numbers[key] is None else numbers[key] for key in columns}  # None: nothing was found


def halves(folder: Path) -> list[str]:
    """The training images, 300 to train on and 100 to choose by, as overrides."""
    from detection.digits import digits_folder, make_digits  # detectron2 is heavy; --page does without

    source = make_digits(digits_folder())
    content = json.loads((source / "train.json").read_text())
    overrides = []
    for name, first, last in (("TRAIN", 1, 300), ("VAL", 301, 400)):
        part = content | {
            "images": [image for image in content["images"] if first <= image["id"] <= last],
            "annotations": [box for box in content["annotations"] if first <= box["image_id"] <= last],
        }
        write_json(folder / f"{name}.json", part)
        overrides += [f"SKD.{name}", json.dumps([str(folder / f"{name}.json"), str(source / "train")])]
    return overrides


def study(out: Path) -> dict[str, Any]:
    import detection_temperature  # detectron2 is heavy; --page does without

    out.mkdir(parents=True, exist_ok=True)
    data = halves(out)
    arms: dict[str, float | None] = {"without": None} | {f"{weight:g}": weight for weight in WEIGHTS}
    tried = {name: detector(out / f"choice_{name}", 0, weight, data) for name, weight in arms.items()}
    floor = tried["without"]["AP"] - 1  # a weight that costs more AP is no candidate
    candidates = [name for name in list(arms)[1:] if tried[name]["AP"] >= floor] or [f"{WEIGHTS[0]:g}"]
    weight = float(min(candidates, key=lambda name: tried[name]["D-ECE"]))
    print(f"chosen: weight {weight:g}; {tried}", flush=True)
    trained = {PLAIN: None, f"SD-Dropout {weight:g}, chosen": weight, f"SD-Dropout {DEFAULT:g}, the default": DEFAULT}
    if weight == DEFAULT:
        trained.popitem()
    numbers = {
        name: [detector(out / f"test_{own}_{seed}", seed, own, []) for seed in SEEDS] for name, own in trained.items()
    }
    temperature = detection_temperature.fit(out / "choice_without")
    scaled = numbers[f"without, at temperature {temperature:.2f}"] = []
    for seed in SEEDS:
        folder = out / f"scaled_{seed}"
        if not (folder / "results.json").exists():
            detection_temperature.evaluate_scaled(out / f"test_None_{seed}", temperature, folder)
        scaled.append(numbers_of(folder / "results.json"))
    return {"chosen": weight, "choice": tried, "test": summarise(numbers), "environment": environment()}


def table(content: dict[str, Any]) -> str:
    """Markdown: the choice, then the test."""
    head = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    lines = ["The choice of the weight, on 100 images of the training half, one seed, in per cent:", "", *head]
    for name, row in content["choice"].items():
        cells = ["–" if row[key] is None else f"{row[key]:.1f}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"The test images, mean and standard deviation of {len(SEEDS)} seeds; p of a paired t-test, corrected for the "
        "weights (Holm):",
        "",
        *compared(content["test"], COLUMNS),
    ]
    return "\n".join(lines)


def compared(summary: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """A table of `summarise`: mean and deviation, and the differences to the first row with their p-values."""
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for name, row in summary.items():
        cells = [f"{row[key]['mean']:.2f} ± {row[key]['std']:.2f}" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        for title, entry, form in (("difference", "mean", "+.2f"), ("p", "p_holm", ".2g")):
            if "difference" in row[columns[0]]:
                cells = [format(row[key]["difference"][entry], form) for key in columns]
                lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/detection-calibration"), help="the detectors' folder")
    parser.add_argument("--page", action="store_true", help="only write the committed numbers into docs/detection.md")
    given = parser.parse_args()
    if not given.page:
        write_json(RESULTS, study(given.out.absolute()))
    text = table(json.loads(RESULTS.read_text()))
    print(text)
    between(ROOT / "docs" / "detection.md", "calibration", text)


if __name__ == "__main__":
    main()
