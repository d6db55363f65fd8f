"""The embedded glyphs: the letters and digits of typefaces, split by typeface family."""

import csv
import unicodedata
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from ..sources import Source
from .dataset import Dataset

_FOLDER = Path(__file__).parent
# In the order of the picture's columns. Not "A" and "a", since some file systems take these for one folder.
CLASSES = (
    *(f"digit {chr(code)}" for code in range(ord("0"), ord("9") + 1)),
    *(f"capital {chr(code)}" for code in range(ord("A"), ord("Z") + 1)),
    *(f"small {chr(code)}" for code in range(ord("a"), ord("z") + 1)),
)
# Greek and Cyrillic letters with a shape of their own. Left out: what looks like a Latin letter or a digit in some
# typefaces (Λ A, σ o, π n, Б 6), like a letter that is listed (Ф Φ, Д Δ), or is often too large (Й, Ж, Щ).
LETTERS = "ΓΔΞΠΣΦΨΩλξφψИШЫЮЯжыюя"
OTHER_CLASSES = tuple(unicodedata.name(letter).replace(" LETTER", "").capitalize() for letter in LETTERS)
_SIDE = 32
_FAMILIES = {"train": 82, "val": 20, "test": 129}


def glyphs(role: str, families: int | None = None) -> Source:
    """The 62 letters and digits of typefaces, 32 x 32 pixels, white on black, one image of each.

    Rendered from the openly licensed fonts of Debian 12; ``scripts/render_glyphs.py`` chose and rendered them, and
    ``glyphs.csv`` lists them with their packages and licences. Many characters are easily confused (0 and O, 1, l and
    I, s and S). A family, its weights and its copies have one role only.

    Args:
        role: train, val or test; other for LETTERS, at the same scale, of the test families that have all of them.
        families: how many, in an order that a hash of their names decides; all by default.
    """
    pictures, names = _pictures()[role]
    classes = OTHER_CLASSES if role == "other" else CLASSES
    count = len(classes)
    chosen = names[:families]
    return Source(
        description=f"glyphs, {len(chosen)} {role} families",
        classes=list(classes),
        targets=np.tile(np.arange(count), len(chosen)),
        load=lambda index: np.repeat(pictures[index // count, index % count, :, :, None], 3, axis=2),
        name_of=lambda index: f"{classes[index % count]} of {chosen[index // count]}",
    )


@cache
def _pictures() -> dict[str, tuple[NDArray[np.uint8], list[str]]]:
    """For each role the characters ``[families, 62, 32, 32]``, or other letters, and the families' names."""
    with (_FOLDER / "glyphs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    roles = np.array([row["role"] for row in rows])
    families = np.array([row["family"] for row in rows])
    pictures, letters = _sheet("glyphs.webp", len(CLASSES)), _sheet("glyphs_other.webp", len(LETTERS))
    complete = letters.any((1, 2, 3))  # a row for each test family, black if it lacks a letter
    return {role: (pictures[roles == role], families[roles == role].tolist()) for role in _FAMILIES} | {
        "other": (letters[complete], families[roles == "test"][complete].tolist())
    }


def _sheet(name: str, columns: int) -> NDArray[np.uint8]:
    sheet = np.asarray(PIL.open(_FOLDER / name).convert("L"))
    return sheet.reshape(-1, _SIDE, columns, _SIDE).transpose(0, 2, 1, 3)


def _dataset(name: str, families: int) -> Dataset:
    held_out = "val" if families else "test"
    halves = f"{families} families to train, 20 to validate" if families else "the 129 test families"
    return Dataset(
        name=name,
        title=f"characters of typefaces, {halves}",
        classes=len(CLASSES),
        train=families * len(CLASSES),
        val=_FAMILIES[held_out] * len(CLASSES),
        homepage="https://packages.debian.org/bookworm/fonts/",
        licence="open ones, for each typeface in glyphs.csv",
        layout="nothing: it comes with this package",
        read=lambda root, train, part: glyphs("train", families) if train else glyphs(held_out),
        exact=True,
    )


DATASET = _dataset("glyphs", 10)
GLYPHS30 = _dataset("glyphs30", 30)
GLYPHS82 = _dataset("glyphs82", 82)
TEST = _dataset("glyphs_test", 0)
OTHER = replace(
    TEST,
    name="glyphs_other",
    title="Greek and Cyrillic letters, 42 of the test families",
    classes=len(LETTERS),
    val=42 * len(LETTERS),
    read=lambda root, train, part: glyphs("other"),
)
