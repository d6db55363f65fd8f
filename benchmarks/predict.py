"""Images a second of `predict` over an image folder against timm's validate.py: the same crops, batches and workers.

`predict` also keeps logits and features of every image and is timed from the first batch to the merged result; of
validate.py the average that it logs counts, which begins with the first batch too. Each is a process of its own.

Run: python benchmarks/predict.py --timm pytorch-image-models [--quick] [--json FILE]
"""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from rounds import interleaved, options, photographs, result, run, run_script, start, timm_script
from row import Row, ratio, report

WORKERS = 1


def ours(folder: str, network: str, batch: int, side: int) -> float:
    """Seconds of `predict`."""
    import torch

    from skd_plugins import create_model, make_loader
    from skd_plugins.evaluation import predict

    model = create_model(network, num_classes=10)
    loader = make_loader(folder, train=False, batch_size=batch, image_size=side, workers=WORKERS)
    with torch.inference_mode():  # validate.py warms up too
        model.eval()(torch.randn(batch, 3, side, side))
    begin = time.perf_counter()
    predict(model, loader)
    return time.perf_counter() - begin


def main() -> None:
    given = options(__doc__, timm=True)
    images, batch, side, network, rounds = (8, 4, 32, "resnet10t", 1) if given.quick else (400, 25, 224, "resnet18", 5)
    name, against, floor = f"predict, {network}", "timm's validate.py, its time over ours", "decoding and the network"
    common: dict[str, Any] = {"target": 1.0, "sense": ">=", "floor": floor}
    script, reason = timm_script(given.timm, "validate.py")
    if script is None:
        return report([Row(name, against, None, note=reason, **common)], given.json)
    import timm
    import torch

    with tempfile.TemporaryDirectory() as root:
        weights = Path(root) / "weights.pth"  # without them the script downloads some
        torch.save(timm.create_model(network, num_classes=10).state_dict(), weights)
        folder = photographs(Path(root) / "val", images)
        arguments = [
            "--data-dir", str(folder), "--model", network, "--num-classes", "10", "--img-size", str(side), "-b",
            str(batch), "-j", str(WORKERS), "--crop-pct", "0.875", "--interpolation", "bilinear", "--device", "cpu",
            "--checkpoint", str(weights), "--log-freq", "1", "--results-file", f"{root}/results.csv",
        ]  # fmt: skip

        def theirs() -> float:
            averages = re.findall(r"Time: [\d.]+s \([\d.]+s,\s*([\d.]+)/s\)", run_script(script, arguments))
            return images / float(averages[-1])

        def mine() -> float:
            return float(result(start(str(folder), network, batch, side)))

        seconds = interleaved({"ours": mine, "timm": theirs}, rounds, warmup=0)
    detail = {"images": images, "batch": batch, "pixels": side, "workers": WORKERS, "seconds": seconds}
    report([ratio(name, against, seconds["timm"], seconds["ours"], detail=detail, **common)], given.json)


if __name__ == "__main__":
    run(main, ours)
