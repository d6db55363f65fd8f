"""Our training loop against a bare PyTorch loop: the same network, loader, precision and optimizer.

Whole epochs of `train`, timed by its own log from the first batch asked for to the last step, in turn with epochs of
twelve lines of PyTorch on the same batches. Start-up, validation and checkpoints are not in it.

Run: python benchmarks/engine.py [--quick] [--json FILE]
"""

import contextlib
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rounds import interleaved, options, photographs
from row import ratio, report

from skd_plugins import Recipe, create_model, make_loader, train
from skd_plugins.data.augment import Augmentation
from skd_plugins.data.beton.write import write_beton
from skd_plugins.data.sources import image_folder


def ours(recipe: Recipe, data: Path, out: Path, images: int) -> float:
    """Seconds of the epoch in `train`."""
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        run = train(recipe, data=str(data), out=out)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    [rate] = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return images / float(rate)


def bare(recipe: Recipe, data: Path) -> float:
    """Seconds of the same epoch in a loop without anything around it."""
    spec = Augmentation.of(recipe)
    loader = make_loader(data / "train.beton", batch_size=recipe.batch_size, augmentation=spec, workers=recipe.workers)
    model = create_model(recipe.model, num_classes=recipe.num_classes).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # missing from torch's overloads
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=1e-4)
    begin = time.perf_counter()
    for input, target in loader:
        loss = torch.nn.functional.cross_entropy(model(input), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.item()
    return time.perf_counter() - begin


def main() -> None:
    given = options(__doc__)
    images, batch, side, network, rounds = (16, 4, 32, "resnet10t", 1) if given.quick else (384, 16, 112, "resnet18", 9)
    recipe = Recipe(
        name="bench.loop", model=network, num_classes=10, epochs=1, milestones=(), batch_size=batch, image_size=side,
        lr=1e-3, workers=1, log_every=10**6, trackers=(), save_minutes=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "data"
        for split, count in (("train", images), ("val", 10)):
            write_beton(image_folder(photographs(Path(root) / split, count)), data / f"{split}.beton", workers=1)
        seconds = interleaved(
            {"ours": lambda: ours(recipe, data, Path(root) / "runs", images), "bare": lambda: bare(recipe, data)},
            rounds,
        )
    row = ratio(
        f"training loop, {network}", "a bare PyTorch loop", seconds["ours"], seconds["bare"], target=1.03, sense="<=",
        floor="1.00",
        detail={
            "images": images, "batch": batch, "pixels": side, "bare_images_per_second": images / median(seconds["bare"])
        },
    )  # fmt: skip
    report([row], given.json)


if __name__ == "__main__":
    main()
