"""`skd timm-train` against the same train.py without it: seconds of a training step, as the script itself logs them.

The script is timm's own, from its repository; each measurement is a process of its own, and counts with the median step
of its last epoch. The photographs' folder, network, batch and workers are the same.

Run: python benchmarks/timm_train.py --timm pytorch-image-models [--quick] [--json FILE]
"""

import re
import sys
import tempfile
from pathlib import Path
from statistics import median

from rounds import interleaved, options, photographs, printed, run_script, timm_script
from row import Row, ratio, report

TRIED = "whole processes on a shared machine, whose rounds differ by a fifth (bench.json); both methods go the same way"
METHODS = {"ce": "1.00", "sd_dropout": "1.00: no pass is added"}


def seconds_of(log: str, batch: int) -> float:
    """The median seconds of a step of the last epoch, from their images a second, which have more digits."""
    steps = re.findall(r"Train: (\d+) .*?Time: [\d.]+s,\s*([\d.]+)/s", log)
    if not steps:
        raise RuntimeError(f"no training rate in the log:\n{log[-2000:]}")
    return batch / median(float(rate) for epoch, rate in steps if epoch == steps[-1][0])


def main() -> None:
    given = options(__doc__, timm=True)
    images, batch, side, network, rounds = (16, 4, 32, "resnet10t", 1) if given.quick else (320, 16, 112, "resnet18", 9)
    script, reason = timm_script(given.timm, "train.py")
    common = {"target": 1.03, "sense": "<="}
    if script is None:
        rows = [
            Row(f"timm-train {name}, {network}", "train.py alone", None, note=reason, floor=floor, **common)
            for name, floor in METHODS.items()
        ]
        return report(rows, given.json)
    with tempfile.TemporaryDirectory() as root:
        for split, count in (("train", images), ("validation", batch)):
            photographs(Path(root) / "data" / split, count)
        arguments = [
            "--data-dir", f"{root}/data", "--model", network, "--num-classes", "10", "--img-size", str(side), "-b",
            str(batch), "--epochs", "1" if given.quick else "2", "--lr", "0.001", "--sched", "step", "--warmup-epochs",
            "0", "--smoothing", "0", "--color-jitter", "0", "-j", "1", "--device", "cpu", "--channels-last", "--seed",
            "0", "--log-interval", "1", "--output", f"{root}/out",
        ]  # fmt: skip

        def alone() -> float:
            return seconds_of(run_script(script, arguments), batch)

        def with_method(name: str) -> float:
            command = [sys.executable, "-m", "skd_plugins.cli", "timm-train", "--timm", str(script), "--method", name]
            return seconds_of(printed([*command, "--", *arguments]), batch)

        contestants = {"alone": alone} | {name: lambda name=name: with_method(name) for name in METHODS}
        seconds = interleaved(contestants, rounds, warmup=0)
    detail = {"images": images, "batch": batch, "pixels": side, "seconds": seconds}
    rows = [
        ratio(
            f"timm-train {name}, {network}", "train.py alone", seconds[name], seconds["alone"], floor=floor,
            detail=detail, note=TRIED, **common,
        )
        for name, floor in METHODS.items()
    ]  # fmt: skip
    report(rows, given.json)


if __name__ == "__main__":
    main()
