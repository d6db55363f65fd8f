"""The compiled decoder: FFCV's pixels to the last bit, and no harm from any bytes."""

import ctypes
import io
import mmap
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Pixels, overwrite
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from skd_plugins.common.errors import SkdError
from skd_plugins.data import write_beton
from skd_plugins.data.beton import file as beton_file
from skd_plugins.data.beton.file import REASONS, BetonFile, library
from skd_plugins.data.beton.native import compile as native_build
from skd_plugins.data.sources import image_folder

Copy = Callable[..., Path]
PHOTOGRAPH: Pixels = load_sample_images().images[0]


def jpeg(picture: Pixels, **options: Any) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def native_crop(data: Pixels, shape: Any, box: Any, flip: bool, size: Any, **options: Any) -> tuple[str | None, Pixels]:
    """The result between two guards, which must be as they were."""
    memory = np.full(size[0] * size[1] * 3 + 128, 7, np.uint8)
    out = memory[64:-64].reshape(*size, 3)
    place = (ctypes.c_int32 * 4)(*box), flip, options.get("whole", False)
    raw = options.get("raw", False)
    code = library().skd_crop(data.ctypes.data, len(data), raw, *shape, *place, out.ctypes.data, *size)
    reason = REASONS[code] if code else None
    assert (memory[:64] == 7).all()
    assert (memory[-64:] == 7).all()
    return reason, out


def ffcv_crop(data: Pixels, shape: Any, box: Any, flip: bool, size: Any, *, raw: bool) -> Pixels:
    """FFCV's decoder, a copy of the box, black outside of the image, and FFCV's resizing."""
    from ffcv.libffcv import imdecode, resize_crop  # slow to import

    pixels = data.reshape(*shape, 3) if raw else np.empty((*shape, 3), np.uint8)
    assert raw or imdecode(data, pixels, *shape, *shape) == 0
    top, left, height, width = box
    window, out = np.zeros((height, width, 3), np.uint8), np.zeros((*size, 3), np.uint8)
    seen = pixels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    window[max(-top, 0) :, max(-left, 0) :][: seen.shape[0], : seen.shape[1]] = seen
    resize_crop(window, 0, height, 0, width, out)
    return out[:, ::-1] if flip else out


# -------------------------------------------------------------------------------------------------------- the pixels

sides = st.one_of(st.integers(1, 40), st.integers(1, 420))
formats = st.fixed_dictionaries(
    {
        "quality": st.integers(10, 100),
        "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
        "progressive": st.booleans(),
        "restart_marker_rows": st.integers(0, 3),
    }
)


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int, outside: bool) -> tuple[int, int, int, int]:
    if outside:
        top, left = draw(st.integers(-height, 2 * height)), draw(st.integers(-width, 2 * width))
        return top, left, height, width
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    return draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w


@st.composite
def sizes(draw: st.DrawFn, height: int, width: int) -> tuple[int, int]:
    """Of the result: any, the box's own, or whole fractions of it."""
    kind = draw(st.sampled_from(["any", "same", "fraction"]))
    if kind == "any":
        return draw(st.integers(1, 260)), draw(st.integers(1, 260))
    parts = (1, 1) if kind == "same" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    return max(1, height // parts[0]), max(1, width // parts[1])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data(), sides, sides, formats, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_pixels_are_ffcvs(
    data: st.DataObject, height: int, width: int, options: Any, raw: bool, grey: bool, flip: bool, whole: bool
) -> None:
    """Whatever is stored, whatever box, each way of resizing, also outside of the image: to the last bit."""
    picture = np.ascontiguousarray(PHOTOGRAPH[:height, :width])
    outside = data.draw(st.booleans())
    box = data.draw(boxes(height, width, outside))
    size = data.draw(sizes(*box[2:]))
    if raw:
        stored = picture.ravel()
    else:
        stored = jpeg(np.asarray(Image.fromarray(picture).convert("L")) if grey else picture, **options)
    reason, ours = native_crop(at_the_end(stored), (height, width), box, flip, size, raw=raw, whole=whole)
    assert reason is None
    expected = ffcv_crop(stored, (height, width), box, flip, size, raw=raw)
    np.testing.assert_array_equal(ours, expected)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beton_file, "library_path", lambda: tmp_path / "crop-0.so")
    with pytest.raises(SkdError, match=r"needs a compiled decoder \(.*crop-0.so.*\): install a C compiler"):
        library.__wrapped__()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs of 640 x 427 pixels, as JPEGs."""
    root = tmp_path_factory.mktemp("large")
    for index, picture in enumerate(load_sample_images().images * 2):
        folder = root / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index}.jpg", quality=95)
    return write_beton(image_folder(root / "train"), root / "train.beton", workers=1)


# -------------------------------------------------------------------------------------------------------------- damage


def test_damage_below_the_box_is_seen_without_check_sums(large: Path, copied: Copy) -> None:
    """The rows below are not needed, but a file without check sums has nothing else that could tell."""
    path = copied(large, alone=True)
    data = BetonFile(path)
    end = int(data._pointers[0] + data._sizes[0])
    overwrite(path, end - 3000, bytes(2000))
    out = np.zeros((32, 32, 3), np.uint8)
    top = np.array([0, 0, 40, 40])
    assert BetonFile(path).crop(0, top, False, out) == "damaged JPEG data"
    assert BetonFile(path).crop(1, top, False, out) is None
    # what is not looked at costs nothing and tells nothing
    stored, shape = BetonFile(path).stored(0), (int(data.heights[0]), int(data.widths[0]))
    assert native_crop(stored, shape, (0, 0, 40, 40), False, (32, 32), raw=False)[0] is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data(), formats, st.sampled_from(["zero", "flip", "cut", "insert", "random"]), st.booleans())
def test_no_bytes_do_harm(data: st.DataObject, options: Any, damage: str, header: bool) -> None:
    """Damaged headers and bodies are reported or decoded to something, and nothing is written outside of `out`.

    The bytes end where memory may not be read any more.
    """
    picture = np.ascontiguousarray(PHOTOGRAPH[:90, :120])
    stored = damaged(data, jpeg(picture, **options), damage, header)
    box = data.draw(boxes(90, 120, False))
    whole = data.draw(st.booleans())
    reason, _ = native_crop(at_the_end(stored), (90, 120), box, False, (20, 30), raw=False, whole=whole)
    assert reason in (None, "damaged JPEG data", "its size is not the one in the table")


def damaged(data: st.DataObject, stored: Pixels, damage: str, header: bool) -> Pixels:
    if damage == "random":
        return np.frombuffer(data.draw(st.binary(min_size=1, max_size=300)), np.uint8)
    at = data.draw(st.integers(0, min(len(stored) - 1, 620 if header else len(stored) - 1)))
    if damage == "cut":
        return stored[: at + 1].copy()
    if damage == "insert":
        return np.insert(stored, at, np.frombuffer(data.draw(st.binary(min_size=1, max_size=20)), np.uint8))
    end = min(at + data.draw(st.integers(1, 40 if damage == "zero" else 2)), len(stored))
    stored = stored.copy()
    stored[at:end] = 0 if damage == "zero" else stored[at:end] ^ data.draw(st.integers(1, 255))
    return stored


def at_the_end(stored: Pixels) -> Pixels:
    """A copy that ends where the next page may not be read: the process would end on the first byte behind it."""
    page = mmap.PAGESIZE
    size = -(-len(stored) // page) * page
    memory = mmap.mmap(-1, size + page)
    whole = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(whole.ctypes.data + size, page, 0) == 0
    place: Pixels = whole[size - len(stored) : size]
    place[:] = stored
    return place


IMPOSSIBLE: list[tuple[Any, Any, dict[str, Any]]] = [
    ((0, 9), (0, 0, 1, 1), {}), ((9, 70_000), (0, 0, 1, 1), {}), ((9, 9), (0, 0, 0, 1), {}),
    ((9, 9), (0, 0, 1, -1), {}), ((9, 9), (2**31 - 1, 0, 1, 1), {}), ((9, 9), (0, -(2**31), 1, 1), {}),
    ((9, 10), (0, 0, 1, 1), {"raw": True}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "box", "options"), IMPOSSIBLE, ids=str)
def test_impossible_arguments_are_refused(shape: Any, box: Any, options: Any) -> None:
    """OpenCV would end the process for some of them."""
    reason, _ = native_crop(np.zeros(9 * 9 * 3, np.uint8), shape, box, False, (4, 4), **options)
    assert reason == "its size, or the box's, is impossible"


# --------------------------------------------------------------------------------------------------------------- build


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the source and of the build script, which builds there."""
    for name in ("compile.py", "crop.c"):
        shutil.copy(native_build.SOURCE.with_name(name), tmp_path)
    monkeypatch.setattr(native_build, "SOURCE", tmp_path / "crop.c")
    return tmp_path


def test_build(elsewhere: Path) -> None:
    path = native_build.build()
    assert path == native_build.library_path()
    assert ctypes.CDLL(str(path)).skd_crop
    made = path.stat().st_mtime_ns
    assert native_build.build().stat().st_mtime_ns == made
    # a changed source is another library, and the old one goes
    with native_build.SOURCE.open("a") as file:
        file.write("/* changed */\n")
    other = native_build.build()
    assert other != path
    assert sorted(elsewhere.glob("crop-*")) == [other]


@pytest.mark.parametrize(
    ("compiler", "source", "message"),
    [
        ("no-such-compiler", "", "^no-such-compiler: No such file or directory$"),
        ("cc", "#include <no_such_header.h>\n", "error: no_such_header.h: No such file"),
        ("cc", "#error libjpeg-turbo is too old\n", "error: .*libjpeg-turbo is too old"),
    ],
)
def test_build_says_why_not(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, source: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    native_build.SOURCE.write_text(source)
    with pytest.raises(native_build.BuildError, match=message):
        native_build.build()
    assert list(elsewhere.glob("crop-*")) == []
    done = subprocess.run([sys.executable, elsewhere / "compile.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("decoder: not compiled (")
