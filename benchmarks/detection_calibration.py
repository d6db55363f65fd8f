"""SD-Dropout in a detector's box head against none: AP and calibration on the digits detection set, five seeds.

Faster R-CNN (detection/configs/digits_demo.yaml, 6 epochs) on the backbone `resnet10t_digits.ce`. The weight of
SD-Dropout, and the temperature of the scores as its rival, are chosen with another seed on 100 of the 400 training
images, after training on the other 300; the test images are not touched until then. A stopped study continues; what is
complete is not repeated. 35 minutes of a core.

Run: python benchmarks/detection_calibration.py [--out runs/detection-calibration]
     python benchmarks/detection_calibration.py --page   # the committed numbers into docs/detection.md
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence_page import between
from rounds import ROOT

sys.path.insert(0, str(ROOT))  # the package `detection`, before the benchmark of this name
from skd_plugins.commands.study import summarise
from skd_plugins.common.environment import environment
from skd_plugins.common.files import write_json
from skd_plugins.training.project import train_detector

BACKBONE = "resnet10t_digits.ce"
WEIGHTS = (0.01, 0.03, 0.1, 1.0, 10.0)
TEMPERATURES = (0.75, 1.25, 1.5, 2.0, 3.0)
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

    def scaled(trained: str, temperature: float, name: str) -> dict[str, float]:
        if not (out / name / "results.json").exists():
            detection_temperature.evaluate_scaled(out / trained, temperature, out / name)
        return numbers_of(out / name / "results.json")

    plain = detector(out / "choice_without", 0, None, data)
    weights = {weight: detector(out / f"choice_{weight:g}", 0, weight, data) for weight in WEIGHTS}
    temperatures = {value: scaled("choice_without", value, f"choice_T{value:g}") for value in TEMPERATURES}
    weight = lowest("D-ECE", weights, plain["AP"] - 1)
    temperature = lowest("LaECE", temperatures, plain["AP"] - 1)  # none lowers D-ECE
    fitted = detection_temperature.fit(out / "choice_without")
    print(f"chosen: weight {weight:g}, temperature {temperature:g}; fitted: {fitted:.2f}", flush=True)
    trained = {PLAIN: None, f"SD-Dropout {weight:g}, chosen": weight, f"SD-Dropout {DEFAULT:g}, the default": DEFAULT}
    if weight == DEFAULT:
        trained.popitem()
    numbers = {
        name: [detector(out / f"test_{own}_{seed}", seed, own, []) for seed in SEEDS] for name, own in trained.items()
    }
    rivals = {f"temperature {temperature:g}, chosen": temperature, f"temperature {fitted:.2f}, fitted": fitted}
    for name, value in rivals.items():
        numbers[name] = [scaled(f"test_None_{seed}", value, f"test_T{value:.2f}_{seed}") for seed in SEEDS]
    rival, *_ = rivals
    tried = {PLAIN: plain} | {f"{value:g}": one for value, one in weights.items()}
    tried |= {f"temperature {value:g}": one for value, one in temperatures.items()}
    return {
        "chosen": weight, "temperature": temperature, "fitted": fitted, "choice": tried, "test": summarise(numbers),
        "against temperature": summarise({name: numbers[name] for name in (rival, *list(trained)[1:])}),
        "environment": environment(),
    }  # fmt: skip


def lowest(key: str, tried: Mapping[float, dict[str, float]], floor: float) -> float:
    """The one with the lowest error of those that do not cost too much AP; the first if there are none."""
    return min([one for one in tried if tried[one]["AP"] >= floor] or list(tried)[:1], key=lambda one: tried[one][key])


def table(content: dict[str, Any]) -> str:
    """Markdown: the choice, then the test."""
    head = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    lines = ["The choice, on 100 images of the training half, one seed, in per cent; numbers are weights:", "", *head]
    for name, row in content["choice"].items():
        cells = ["–" if row[key] is None else f"{row[key]:.1f}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"The test images, mean and standard deviation of {len(SEEDS)} seeds; p of a paired t-test, corrected for the "
        "rows (Holm):",
        "",
        *compared(content["test"], COLUMNS),
        "",
        "SD-Dropout against the detectors without it at the chosen temperature:",
        "",
        *compared(content["against temperature"], COLUMNS),
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


def results_of(name: str) -> Path:
    """The committed numbers of a study of detectors."""
    return Path(__file__).with_name("results") / f"detection_{name}.json"


def command(
    text: str | None, name: str, study: Callable[[Path], dict[str, Any]], table: Callable[[dict[str, Any]], str]
) -> None:
    """The command line of a study of detectors: runs it, and writes its numbers and its part of docs/detection.md."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"runs/detection-{name}"), help="the detectors' folder")
    parser.add_argument("--page", action="store_true", help="only write the committed numbers into docs/detection.md")
    given = parser.parse_args()
    if not given.page:
        write_json(results_of(name), study(given.out.absolute()))
    page = table(json.loads(results_of(name).read_text()))
    print(page)
    between(ROOT / "docs" / "detection.md", name, page)


if __name__ == "__main__":
    command(__doc__, "calibration", study, table)
