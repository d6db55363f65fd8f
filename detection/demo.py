"""``make demo-detection``: from released digits networks to two detectors, side by side."""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from rich.console import Console
from rich.table import Table

from skd_plugins.common.errors import one_line
from skd_plugins.training.project import train_detector
from skd_plugins.weights.download import download
from skd_plugins.weights.manifest import find_release

from .digits import digits_folder, make_digits

HERE = Path(__file__).resolve().parent
BACKBONES = {"cross-entropy": "resnet10t_digits.ce", "SD-Dropout": "resnet10t_digits.sdd"}


def fine_tune(weights: str, out: Path, overrides: list[str]) -> dict[str, float]:
    """Trains and evaluates ``digits_demo.yaml`` from a backbone; returns COCO's metrics in per cent."""
    results = out / "results.json"
    if not results.exists():
        # One thread each: on two cores, two processes with two threads each would wait for each other.
        train_detector(HERE, "digits_demo", weights, out, overrides, {"OMP_NUM_THREADS": "1"})
    metrics: dict[str, float] = json.loads(results.read_text())["bbox"]
    return metrics


@one_line
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-detection"), help="where everything goes")
    parser.add_argument("overrides", nargs="*", default=[], help="KEY VALUE ... for both detectors")
    arguments = parser.parse_args()
    out: Path = arguments.out
    print(f"data: {make_digits(digits_folder())} (400 training and 100 validation images)", flush=True)

    for name, weights in BACKBONES.items():
        release = find_release(weights)
        top1 = f"top-1 {100 * release.metrics['top1']:.2f} % on digits"
        print(f"fine-tune: Faster R-CNN from {weights} ({name}, {top1}): {download(release)}", flush=True)
    folders = [out / weights for weights in BACKBONES.values()]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        found = pool.map(fine_tune, BACKBONES.values(), folders, repeat(arguments.overrides))
        results = dict(zip(BACKBONES, found, strict=True))
    table = Table("backbone", title="Faster R-CNN on digits, 100 validation images, %", title_justify="left")
    for key in ("AP", "AP50", "AP75"):
        table.add_column(key, justify="right")
    for name, metrics in results.items():
        table.add_row(name, *(f"{metrics[key]:.1f}" for key in ("AP", "AP50", "AP75")))
    Console().print(table)
    for folder in folders:
        print(f"detector: {folder}/model_final.pth, per-class AP in {folder}/results.json, pictures in its pictures/")


if __name__ == "__main__":
    main()
