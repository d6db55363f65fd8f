"""Real data for the tests: crops of scikit-learn's two photographs, and its digits, as folders and `.beton` files.

Importing FFCV takes seconds, so what its writer makes is made once a session; tests that damage a file copy it.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # spinning threads of several test processes starve one another
# For tests that import FFCV themselves; see `_ffcv` in skd_plugins/data/beton/write.py.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; without it tests of missing weights wait for the Hub

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skd_plugins import Recipe
from skd_plugins.data import Source, open_source, write_beton
from skd_plugins.data.sources import image_folder

torch.set_num_threads(1)

Pixels = NDArray[np.uint8]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


TINY_RECIPE = Recipe(
    name="tiny.test", dataset="digits", model="resnet10t", model_args={"channels": [8, 8, 16, 16]}, epochs=2,
    batch_size=12, lr=0.05, milestones=(1,), image_size=16, augment="shift", padding=2, hflip=0.0, crop_pct=1.0,
    workers=2, trackers=(), log_every=1,
)  # fmt: skip
# Images a class, two of them odd; one image is wider and one is higher than the ratios of RandomResizedCrop.
CLASSES = {"ant": 6, "bee": 5, "cat": 5}


@pytest.fixture(scope="session")
def photographs() -> list[Pixels]:
    """Sixteen real pictures of various sizes, the first five in portrait format."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    draw = np.random.default_rng(0)
    crops = []
    for index in range(sum(CLASSES.values())):
        spans = ((90, 130), (60, 85)) if index < 5 else ((50, 120), (85, 160))
        height, width = (int(draw.integers(*span)) for span in spans)
        height, width = {6: (40, 150), 7: (150, 40)}.get(index, (height, width))
        top, left = int(draw.integers(427 - height)), int(draw.integers(640 - width))
        crops.append(np.ascontiguousarray((china, flower)[index % 2][top : top + height, left : left + width]))
    return crops


def save_folder(pictures: list[Pixels], path: Path, ending: str) -> Path:
    """One subfolder a class, as in `CLASSES`."""
    left = iter(enumerate(pictures))
    for name, count in CLASSES.items():
        (path / name).mkdir(parents=True)
        for _ in range(count):
            index, picture = next(left)
            options = {"quality": 95} if ending == "jpg" else {}
            Image.fromarray(picture).save(path / name / f"{index:02d}.{ending}", **options)
    return path


@pytest.fixture(scope="session")
def jpeg_folder(photographs: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(photographs, tmp_path_factory.mktemp("jpeg") / "train", "jpg")


@pytest.fixture(scope="session")
def png_folder(photographs: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lossless, in the same order and classes as `jpeg_folder`."""
    return save_folder(photographs, tmp_path_factory.mktemp("png") / "train", "png")


@pytest.fixture(scope="session")
def beton(jpeg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`jpeg_folder` as JPEGs in a `.beton`."""
    return write_beton(image_folder(jpeg_folder), tmp_path_factory.mktemp("beton") / "train.beton", workers=1)


@pytest.fixture(scope="session")
def raw_beton(png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`png_folder` as pixels in a `.beton`: lossless."""
    path = tmp_path_factory.mktemp("raw") / "train.beton"
    return write_beton(image_folder(png_folder), path, workers=1, raw_share=1.0)


@pytest.fixture(scope="session")
def mixed_beton(png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`png_folder`, half of it as pixels and half as JPEGs."""
    path = tmp_path_factory.mktemp("mixed") / "train.beton"
    return write_beton(image_folder(png_folder), path, workers=2, raw_share=0.5)


@pytest.fixture(scope="session")
def digits_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded digits: 20 a class in train.beton, and val.beton."""
    from skd_plugins.data.find import embedded

    return embedded("digits", tmp_path_factory.mktemp("digits") / "digits-20")


@pytest.fixture(scope="session")
def digits_source() -> Source:
    return open_source("digits", True)


@pytest.fixture
def no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)  # Python's own way to say that there is none


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    """Copies a `.beton` file, and what is beside it unless it shall look like somebody else's file."""

    def copy(path: Path, *, alone: bool = False) -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for ending in ("",) if alone else ("", ".json", ".crc32"):
            shutil.copy(f"{path}{ending}", folder)
        return folder / path.name

    return copy


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Opens a page in headless chromium and returns its DOM as text."""

    def open_page(path: Path, *flags: str) -> str:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert chromium, "these tests need a browser: apt-get install -y chromium"
        quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
        command = [chromium, "--headless", "--no-sandbox", *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--window-size=1200,900", *flags, "--dump-dom"]
        result = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert "</html>" in result.stdout, result.stderr
        return result.stdout

    return open_page


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Damages a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """A limit on the size of files, at which the system refuses to write in the same way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
