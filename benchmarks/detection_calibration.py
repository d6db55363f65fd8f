"""SD-Dropout in a detector's box head against none: AP and calibration on the digits detection set, five seeds.

Faster R-CNN (detection/configs/digits_demo.yaml, 6 epochs) on the backbone `resnet10t_digits.ce`. The weight of
SD-Dropout is chosen with another seed on 100 of the 400 training images, after training on the other 300; the test
images are not touched until then. A stopped study continues; what is complete is not repeated. 20 minutes of a core.

Run: python benchmarks/detection_calibration.py [--out runs/detection-calibration]
     python benchmarks/detection_calibration.py --page   # the committed numbers into docs/detection.md
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rounds import ROOT

sys.path.insert(0, str(ROOT))  # the package `detection`, before the benchmark of this name
from skd_plugins.commands.study import summarise
from skd_plugins.common.environment import environment
from skd_plugins.common.files import write_json, write_text
from skd_plugins.training.project import train_detector

RESULTS = Path(__file__).with_name("results") / "detection_calibration.json"
PAGE = ROOT / "docs" / "detection.md"
MARKERS = ("<!-- calibration: begin -->", "<!-- calibration: end -->")
BACKBONE = "resnet10t_digits.ce"
WEIGHTS = (0.1, 1.0, 10.0)
SEEDS = (1, 2, 3, 4, 5)
PLAIN, OURS = "without", "SD-Dropout"
COLUMNS = ("AP", "AP50", "D-ECE", "LaECE")
SETTINGS = ["SKD.EPOCHS", "6", "SKD.VISUALIZE", "0", "DATALOADER.NUM_WORKERS", "0"]


def detector(out: Path, seed: int, weight: float | None, more: list[str]) -> dict[str, float]:
    """Trains unless it is done; the columns' values in per cent, and the seconds of this process."""
    heads = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads" if weight is None else "SDDropoutROIHeads"]
    dropout = [] if weight is None else ["MODEL.ROI_HEADS.SD_DROPOUT.WEIGHT", str(weight)]
    results, begin = out / "results.json", time.monotonic()
    if not results.exists():
        settings = [*SETTINGS, "SEED", str(seed), *heads, *dropout, *more]
        train_detector(
            ROOT / "detection", "digits_demo", "resnet10t_digits.ce", out, settings, {"OMP_NUM_THREADS": "1"}
        )
        print(f"{out.name}: {time.monotonic() - begin:.0f} s", flush=True)
    content = json.loads(results.read_text())
    numbers: dict[str, float] = content["bbox"] | content["calibration"]
    return {key: numbers[key] for key in COLUMNS}


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
    out.mkdir(parents=True, exist_ok=True)
    data = halves(out)
    arms = {"without": None} | {f"{weight:g}": weight for weight in WEIGHTS}
    tried = {name: detector(out / f"choice_{name}", 0, weight, data) for name, weight in arms.items()}
    floor = tried["without"]["AP"] - 1  # a weight that costs more AP is no candidate
    candidates = [f"{weight:g}" for weight in WEIGHTS if tried[f"{weight:g}"]["AP"] >= floor] or ["0.1"]
    weight = float(min(candidates, key=lambda name: tried[name]["D-ECE"]))
    print(f"chosen: weight {weight:g}; {tried}", flush=True)
    numbers: dict[str, list[dict[str, float]]] = {PLAIN: [], OURS: []}
    for seed in SEEDS:
        numbers[PLAIN].append(detector(out / f"without_{seed}", seed, None, []))
        numbers[OURS].append(detector(out / f"sdd_{seed}", seed, weight, []))
    return {"chosen": weight, "choice": tried, "test": summarise(numbers), "environment": environment()}


def table(content: dict[str, Any]) -> str:
    """Markdown: the choice, then the test."""
    lines = [
        f"SD-Dropout's weight, by D-ECE on 100 images of the training half (one seed): {content['chosen']:g}.", "",
        f"| weight | {' | '.join(COLUMNS)} |", "| --- | " + "---: | " * len(COLUMNS),
    ]  # fmt: skip
    lines += [
        f"| {name} | {' | '.join(f'{row[key]:.1f}' for key in COLUMNS)} |" for name, row in content["choice"].items()
    ]
    lines += ["", f"On the test images, {len(SEEDS)} seeds:", ""]
    lines += [f"| | {' | '.join(COLUMNS)} |", "| --- | " + "---: | " * len(COLUMNS)]
    for name, row in content["test"].items():
        cells = [f"{row[key]['mean']:.2f} ± {row[key]['std']:.2f}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    found = [content["test"][OURS][key]["difference"] for key in COLUMNS]
    for name, key, form in (("difference", "mean", "+.2f"), ("p, paired", "p", ".3f")):
        lines.append(f"| {name} | {' | '.join(format(one[key], form) for one in found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/detection-calibration"), help="the detectors' folder")
    parser.add_argument("--page", action="store_true", help="only write the committed numbers into docs/detection.md")
    given = parser.parse_args()
    if not given.page:
        write_json(RESULTS, study(given.out.absolute()))
    text = table(json.loads(RESULTS.read_text()))
    print(text)
    before, rest = PAGE.read_text().split(MARKERS[0])
    write_text(PAGE, f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")


if __name__ == "__main__":
    main()
