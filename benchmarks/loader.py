"""Images per second of our `.beton` loader against FFCV's own and timm's: ratios of interleaved epochs in one process.

500 x 375 JPEGs (crops of scikit-learn's photographs), random resized crop to 224 px and flip, 2 workers each, pixels as
uint8 on the host for all but timm (which decodes in worker processes and normalises as well).

Run: python benchmarks/loader.py [--images 400] [--rounds 5] [--size 224] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

WORKERS, BATCH = 2, 50


def make_folder(root: Path, images: int) -> Path:
    """Writes the JPEGs, in ten classes."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0)
    for index in range(images):
        photograph = photographs[index % 2]
        left, top = (int(draw.integers(0, side + 1)) for side in (photograph.width - 500, photograph.height - 375))
        folder = root / "train" / f"class{index % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        photograph.crop((left, top, left + 500, top + 375)).save(folder / f"{index:05d}.jpg", quality=90)
    return root / "train"


def ours(path: Path, size: int) -> Callable[[], int]:
    """Our loader, up to the pixels."""
    from skd_plugins import make_loader

    loader = make_loader(path, batch_size=BATCH, image_size=size, workers=WORKERS)
    return lambda: sum(len(input) for input, _ in loader.host_batches())


def stock_ffcv(path: Path, size: int) -> Callable[[], int]:
    """FFCV's loader with its RandomResizedCrop decoder and flip."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    pipeline = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(path), batch_size=BATCH, num_workers=WORKERS, order=OrderOption.RANDOM, seed=0, drop_last=False,
        pipelines={"image": pipeline},
    )  # fmt: skip
    return lambda: sum(len(batch[0]) for batch in loader)


def timm_folder(folder: Path, size: int) -> Callable[[], int]:
    """timm's loader on the folder."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)), input_size=(3, size, size), batch_size=BATCH, is_training=True,
        color_jitter=0.0, num_workers=WORKERS, device=torch.device("cpu"), persistent_workers=True,
    )  # fmt: skip
    return lambda: sum(len(input) for input, _ in loader)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("NUMBA_THREADING_LAYER", "default")  # FFCV's loader with the threads it chooses itself
    from skd_plugins.data.sources import image_folder
    from skd_plugins.data.write import write_beton
    from skd_plugins.environment import versions

    with tempfile.TemporaryDirectory() as root:
        folder = make_folder(Path(root), options.images)
        beton = write_beton(image_folder(folder), Path(root) / "train.beton")
        bare = Path(root) / "bare.beton"  # without the JSON file: no checksums
        bare.hardlink_to(beton)
        contestants = {
            "ours": ours(beton, options.size),
            "ours, no CRC-32": ours(bare, options.size),
            "FFCV's loader": stock_ffcv(beton, options.size),
            "timm's loader": timm_folder(folder, options.size),
        }
        first: dict[str, float] = {}
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(options.rounds + 1):
            for name, epoch in contestants.items():
                begin = time.perf_counter()
                images = epoch()
                seconds = time.perf_counter() - begin
                if turn:
                    speeds[name].append(images / seconds)
                else:  # the first epoch compiles, forks and fills caches
                    first[name] = seconds
    rows: dict[str, Any] = {}
    for name, values in speeds.items():
        ratios = [ours_ / other for ours_, other in zip(speeds["ours"], values, strict=True)]
        rows[name] = {
            "images_per_second": round(statistics.median(values)), "first_epoch_seconds": round(first[name], 1),
            "ours_over_it": round(statistics.median(ratios), 2),
        }  # fmt: skip
        print(f"{name:16s} {rows[name]}")
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options) | {"json": None}, "versions": versions(), "rows": rows}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
