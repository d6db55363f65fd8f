"""Speed of our `.beton` loader against FFCV's and timm's: ratios of interleaved epochs, of images/s, in one process.

JPEGs of 500 x 375 pixels (crops of scikit-learn's photographs, quality 90) and of 1600 x 1067 (the same, enlarged, with
noise), random resized crop and flip, 2 workers each; pixels as uint8 on the host for all but timm, which decodes in
worker processes and normalises as well. The floor decodes all of each JPEG by FFCV's libjpeg-turbo on as many threads
and does nothing else. Time to the first batch is a process's, from its start, with what the last one left in caches.

Run: python benchmarks/loader.py [--quick] [--rounds 7] [--json FILE]
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rounds import interleaved, options, photographs
from row import Row, ratio, report

WORKERS, BATCH = 2, 20
Epoch = Callable[[], int]  # runs one, returns how many images it gave


@dataclass
class Settings:
    """How much is measured."""

    rounds: int
    images: int  # of 500 x 375 pixels
    photographs: int  # of 1600 x 1067
    starts: int  # processes for the time to the first batch
    quick: bool


def ours(path: Path, size: int, **options: Any) -> Epoch:
    """Our loader, up to the pixels."""
    from skd_plugins import make_loader

    loader = make_loader(path, **({"image_size": size, "batch_size": BATCH, "workers": WORKERS} | options))
    return lambda: sum(len(input) for input, _ in loader.host_batches())


def stock_ffcv(path: Path, size: int) -> Epoch:
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


def timm_folder(folder: Path, size: int, **change: Any) -> Epoch:
    """timm's loader on the folder."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)), input_size=(3, size, size), batch_size=BATCH, is_training=True,
        num_workers=WORKERS, device=torch.device("cpu"), persistent_workers=True, **{"color_jitter": 0.0} | change,
    )  # fmt: skip
    return lambda: sum(len(input) for input, _ in loader)


def bare_decode(path: Path) -> Epoch:
    """All of each JPEG, and nothing else."""
    from ffcv.libffcv import imdecode

    from skd_plugins.data.beton.file import BetonFile

    data = BetonFile(path)

    def share(first: int) -> int:
        for index in range(first, len(data), WORKERS):
            height, width, stored = int(data.heights[index]), int(data.widths[index]), data.stored(index)
            out = buffers[first][: height * width * 3]
            assert not imdecode(stored, out, height, width, height, width)
        return len(range(first, len(data), WORKERS))

    buffers = [np.empty(int((data.heights * data.widths).max()) * 3, np.uint8) for _ in range(WORKERS)]
    pool = ThreadPoolExecutor(WORKERS)
    return lambda: sum(pool.map(share, range(WORKERS)))


def measure(contestants: dict[str, Epoch], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Each one's images/s, by round, and the images of an epoch; a first round, which fills caches, is left out."""
    images = {}

    def epoch(name: str) -> None:
        images[name] = contestants[name]()

    seconds = interleaved({name: partial(epoch, name) for name in contestants}, rounds)
    return {name: [images[name] / second for second in values] for name, values in seconds.items()}, images


def compare(name: str, contestants: dict[str, Epoch], targets: dict[str, float], rounds: int) -> Iterable[Row]:
    """Rows of the first contestant against each of the others; "floor" gives its share of that one's speed."""
    speeds, _ = measure(contestants, rounds)
    first, *others = contestants
    mine = speeds[first]
    floor = ""
    if "floor" in contestants:
        others.remove("floor")
        limit = median(one / other for one, other in zip(mine, speeds["floor"], strict=True))
        floor = f"bare full decode: ours has {limit:.2f} x its images/s"
    for other in others:
        detail = {"images_per_second": {key: round(median(values)) for key, values in speeds.items()}}
        goal: dict[str, Any] = {"target": targets[other], "sense": ">="} if other in targets else {}
        yield ratio(name, other, mine, speeds[other], floor=floor, detail=detail, **goal)


def speed_rows(root: Path, settings: Settings) -> Iterable[Row]:
    """Images/s."""
    from skd_plugins.data.beton.write import write_beton
    from skd_plugins.data.sources import image_folder

    folder = photographs(root / "small" / "train", settings.images)
    jpeg = write_beton(image_folder(folder), root / "jpeg.beton")
    raw = write_beton(image_folder(folder), root / "raw.beton", raw_share=1.0)
    large_folder = photographs(root / "large" / "train", settings.photographs, (1600, 1067))
    large = write_beton(image_folder(large_folder), root / "large.beton")
    bare = root / "bare.beton"  # without the JSON file: no check sums, so that damage is looked for in all of a JPEG
    bare.hardlink_to(jpeg)
    timm, stock = "timm's loader, image folder", "FFCV's loader, same file"
    fewer = max(1, settings.rounds // 2)
    contestants = {
        "ours": ours(jpeg, 224), timm: timm_folder(folder, 224), stock: stock_ffcv(jpeg, 224),
        "ours without check sums": ours(bare, 224), "floor": bare_decode(jpeg),
    }  # fmt: skip
    what = "loader, JPEG 500 x 375 to 224 px, images/s"
    yield from compare(what, contestants, {timm: 2.0, stock: 1.0}, settings.rounds)
    if not settings.quick:  # FFCV's loader compiles for 10 s each time
        contestants = {"ours": ours(jpeg, 128), stock: stock_ffcv(jpeg, 128), timm: timm_folder(folder, 128)}
        contestants["floor"] = bare_decode(jpeg)
        yield from compare("loader, JPEG 500 x 375 to 128 px, images/s", contestants, {stock: 1.3}, settings.rounds)
        contestants = {"ours": ours(large, 224), stock: stock_ffcv(large, 224), timm: timm_folder(large_folder, 224)}
        contestants["floor"] = bare_decode(large)
        yield from compare("loader, JPEG 1600 x 1067 to 224 px, images/s", contestants, {stock: 1.5}, fewer)
    contestants = {"ours": ours(raw, 224), timm: timm_folder(folder, 224)}
    yield from compare("loader, raw 500 x 375 to 224 px, images/s", contestants, {timm: 3.5}, settings.rounds)


def pair_rows(path: Path, settings: Settings) -> Iterable[Row]:
    """What CS-KD's segments cost, against cross-entropy's."""
    segments = {"ce": ("anchor",), "sampled": ("anchor", "pair"), "bank": ("anchor",)}
    contestants = {name: ours(path, 224, segments=roles) for name, roles in segments.items()}
    speeds, images = measure(contestants, settings.rounds)
    seconds = {name: [images[name] / speed for speed in values] for name, values in speeds.items()}
    for name, target in ("sampled", 2.0), ("bank", 1.0):
        what, against = f"loader, CS-KD {name}", "cross-entropy's loader"
        yield Row(f"{what}, images decoded", against, images[name] / images["ce"], target, "<=", floor="1 an image")
        note = "the same work as cross-entropy's: above or below 1 by noise" if name == "bank" else ""
        yield ratio(
            f"{what}, time of an epoch", against, seconds[name], seconds["ce"], target=target, sense="<=",
            floor=f"{target:g} x the images", note=note,
        )  # fmt: skip


class Waiting:
    """Stands in for the compiled decoder: each call waits, and needs no core."""

    def __init__(self, seconds: float) -> None:
        self.wait, self.microseconds = ctypes.CDLL(None).usleep, round(1e6 * seconds)

    def skd_crop(self, *_: object) -> int:
        if self.microseconds:
            self.wait(self.microseconds)
        return 0


def thread_rows(path: Path, settings: Settings) -> Iterable[Row]:
    """How threads scale, and what Python does for an image, under its lock: it bounds all threads of a process.

    Cores that this machine lacks are replaced by a decoder that waits as long as decoding an image takes.
    """
    from skd_plugins.data.beton import file

    def speed(threads: int, decoder: Any) -> tuple[float, float]:
        """Images/s, and seconds of processor time an image."""
        found, file.library = file.library, lambda: decoder
        try:
            epoch = ours(path, 224, batch_size=settings.images, workers=threads)
            epoch()
            begin, busy, images = time.perf_counter(), time.process_time(), 0
            while not images or time.perf_counter() - begin < (0 if settings.quick else 3):
                images += epoch()
            return images / (time.perf_counter() - begin), (time.process_time() - busy) / images
        finally:
            file.library = found

    real = {threads: speed(threads, file.library()) for threads in range(1, (os.cpu_count() or 1) + 1)}
    image, python = real[1][1], speed(1, Waiting(0))[1]
    waiting = {threads: round(speed(threads, Waiting(image))[0]) for threads in (1, 2, 4, 8, 12, 16, 24)}
    detail = {"image_us": round(1e6 * image), "python_us": round(1e6 * python),
              "images_per_second": {threads: round(rate) for threads, (rate, _) in real.items()}}  # fmt: skip
    yield Row("loader, Python's processor time an image", "with decoding", python / image, detail=detail)
    yield Row(
        "loader, 12 threads with a decoder that waits, images/s", "a GPU's 3,000", waiting[12] / 3000, 1.0, ">=",
        floor="12 times one thread's, if Python took no time", detail={"images_per_second": waiting},
    )  # fmt: skip


START = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from loader import ours, stock_ffcv
epoch = {"ours": ours, "ffcv": stock_ffcv}[sys.argv[2]](Path(sys.argv[3]), 224)
epoch()
"""


def start_rows(path: Path, settings: Settings) -> Iterable[Row]:
    """From the start of a process to its first batch: a file with one batch of images is read."""
    seconds: dict[str, list[float]] = {"ours": [], "ffcv": []}
    for turn in range(settings.starts + (not settings.quick)):
        for name, values in seconds.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", START, str(Path(__file__).parent), name, str(path)], check=True)
            if turn or settings.quick:  # the first fills caches
                values.append(time.perf_counter() - begin)
    yield ratio(
        "loader, process start to first batch", "FFCV's loader, same file", seconds["ours"], seconds["ffcv"],
        target=0.5, sense="<=", floor="importing torch and timm",
        detail={"seconds": {name: round(median(values), 2) for name, values in seconds.items()}},
    )  # fmt: skip


def main() -> None:
    given = options(__doc__, rounds=7)
    settings = Settings(1, 20, 20, 1, True) if given.quick else Settings(given.rounds, 400, 60, 3, False)
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # with TBB, a forked process may never end
    from skd_plugins.data.beton.write import write_beton
    from skd_plugins.data.sources import image_folder

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as root:
        rows += speed_rows(Path(root), settings)
        rows += pair_rows(Path(root) / "jpeg.beton", settings)
        rows += thread_rows(Path(root) / "jpeg.beton", settings)
        one = photographs(Path(root) / "one" / "train", BATCH)
        rows += start_rows(write_beton(image_folder(one), Path(root) / "one.beton"), settings)
    report(rows, given.json)


if __name__ == "__main__":
    main()
