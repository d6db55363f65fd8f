"""Renders the embedded glyphs from Debian's font packages; run by hand, on a Debian machine.

    python scripts/render_glyphs.py check   # renders the listed typefaces again and compares the pixels
    python scripts/render_glyphs.py choose  # chooses typefaces from all packages and writes the list and the pixels

Both also do the Greek and Cyrillic letters of the test typefaces.

Bit for bit the same with the package versions of the list and the Pillow that is printed (its wheels contain FreeType).
"""

import argparse
import csv
import hashlib
import io
import re
import string
import subprocess
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from skd_plugins.data.datasets.glyphs import LETTERS

FOLDER = Path(__file__).parents[1] / "skd_plugins" / "data" / "datasets"
LIST, SHEET, OTHER_SHEET = FOLDER / "glyphs.csv", FOLDER / "glyphs.webp", FOLDER / "glyphs_other.webp"
CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIDE, MARGIN = 32, 2
LEVELS = 16  # grey levels
LARGEST_PACKAGE = 6_000_000  # bytes
COPY = 0.9  # correlation of two typefaces' pixels from which one is a copy of the other
INK = 1.5  # times the characters' mean grey: from there, the other letters are of another width than the characters
READABLE = 0.15  # share of the characters that the other typefaces' mean images must recognise
FAMILIES_A_STEM = 4
ROLES = {"train": 0.45, "val": 0.55, "test": 1.0}  # up to which hash
# What a licence is called in Debian's copyright files, and here. Others are left out.
LICENCES = {
    "OFL": r"ofl|sil", "Apache-2.0": "apache", "CC0-1.0": "cc0", "public domain": r"public.?domain|unlicense",
    "MIT": r"\bmit\b|expat", "GPL with font exception": r"gpl.*(font|\+fe\b)",
}  # fmt: skip
NOT_FONTS = r"(\./)?debian/|.*(\.(m4|sh|py|pe|js|css|html|xml|txt|conf)|[mM]akefile.*|configure|install-sh)$"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Typeface:
    """A row of the list."""

    family: str
    role: str
    package: str
    version: str
    licence: str
    file: str  # inside the package


def main() -> None:
    """Checks the list and the sheet, or makes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["check", "choose"])
    parser.add_argument("--cache", type=Path, help="a folder that keeps the unpacked packages")
    options = parser.parse_args()
    print(f"Pillow {Image.__version__}, FreeType {features.version('freetype2')}")
    with tempfile.TemporaryDirectory() as temporary:
        packages = _Packages(options.cache or Path(temporary))
        if options.do == "check":
            with LIST.open() as file:
                chosen = [Typeface(**row) for row in csv.DictReader(file)]
            packages.get(sorted({f"{face.package}={face.version}" for face in chosen}))
            glyphs = np.stack([render(packages.folder / face.package / face.file) for face in chosen])
        else:
            packages.get(packages.available())
            chosen, glyphs = choose(packages)
            with LIST.open("w", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Typeface)], lineterminator="\n")
                writer.writeheader()
                writer.writerows(asdict(face) for face in chosen)
            print(f"{LIST}: {dict(Counter(face.role for face in chosen))}")
        test = [packages.folder / face.package / face.file for face in chosen if face.role == "test"]
        for path, images in ((SHEET, glyphs), (OTHER_SHEET, np.stack([other_letters(font) for font in test]))):
            if options.do == "choose":
                path.write_bytes(_sheet(images))
            elif _sheet(images) != path.read_bytes():
                raise SystemExit(f"{path} differs")
            says = "is equal, bit for bit" if options.do == "check" else f"has {path.stat().st_size} bytes"
            print(f"{path} {says}: {images.any((1, 2, 3)).sum()} typefaces")


# ---- packages --------------------------------------------------------------------------------------------------------


class _Packages:
    """Debian packages, unpacked under a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def available(self) -> list[str]:
        """The small packages with fonts, as ``name=version``."""
        names = _run("apt-cache", "--names-only", "search", "^fonts-").split("\n")
        shown = _run("apt-cache", "--no-all-versions", "show", *sorted(line.split()[0] for line in names if line))
        entries = [dict(re.findall(r"^(\w+): (.+)$", entry, re.M)) for entry in shown.split("\n\n") if entry.strip()]
        small = [entry for entry in entries if int(entry["Size"]) < LARGEST_PACKAGE]
        return [f"{entry['Package']}={entry['Version']}" for entry in small]

    def get(self, packages: list[str]) -> None:
        """Downloads and unpacks what is not there."""
        missing = [package for package in packages if not (self.folder / package.split("=")[0]).exists()]
        with tempfile.TemporaryDirectory() as downloads:
            for first in range(0, len(missing), 20):
                _run("apt-get", "download", *missing[first : first + 20], folder=Path(downloads))
            for archive in Path(downloads).glob("*.deb"):
                name, version = archive.name.split("_")[:2]
                _run("dpkg-deb", "-x", str(archive), str(self.folder / name))
                (self.folder / name / "version").write_text(version.replace("%3a", ":"))

    def licence(self, package: str) -> str:
        """The licence of a package's fonts; empty if one of them is not in LICENCES."""
        path = self.folder / package / "usr/share/doc" / package / "copyright"
        text = path.read_text(errors="replace") if path.is_file() else ""
        found = set()
        for entry in re.split(r"\n\s*\n", text):
            files = re.search(r"^Files:\s*(.+(?:\n[ \t].+)*)", entry, re.M)
            licence = re.search(r"^License:\s*(\S.*)$", entry, re.M)
            if files and licence and not all(re.match(NOT_FONTS, name) for name in re.split(r"[\s,]+", files[1])):
                names = [name for name, words in LICENCES.items() if re.search(words, licence[1], re.I)]
                found.add(names[0] if names else "")
        if not found and re.search("open font license", text, re.I):  # not in the machine-readable form
            found = {"OFL"}
        return "" if "" in found else " and ".join(sorted(found))


def _run(*command: str, folder: Path | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


# ---- choosing --------------------------------------------------------------------------------------------------------


def choose(packages: _Packages) -> tuple[list[Typeface], Pixels]:
    """All fit typefaces, by role and hash, and their glyphs ``[N, 62, 32, 32]``."""
    faces, glyphs = [], []
    left_out: Counter[str] = Counter()
    for family, path in sorted(_families(packages.folder).items()):
        package = path.relative_to(packages.folder).parts[0]
        licence = packages.licence(package)
        pixels = render(path) if licence else None
        if pixels is None:
            left_out["no outline font that fits" if licence else "licence"] += 1
            continue
        version = (packages.folder / package / "version").read_text()
        file = str(path.relative_to(packages.folder / package))
        faces.append(Typeface(family, "", package, version, licence, file))
        glyphs.append(pixels)
    total = np.sum(glyphs, axis=0, dtype=np.float64)
    kept: list[int] = []
    for index, pixels in enumerate(glyphs):
        others = (total - pixels) / (len(glyphs) - 1)
        recognised = (_rows(pixels) @ _rows(others).T).argmax(1) == np.arange(len(CHARACTERS))
        if len({image.tobytes() for image in pixels}) < len(CHARACTERS) - 2:
            left_out["no difference between some characters, such as a and A"] += 1
        elif recognised.mean() < READABLE:
            left_out["unreadable"] += 1
        elif any(_alike(pixels, glyphs[other]) >= COPY for other in kept):
            left_out["a copy of another"] += 1
        else:
            kept.append(index)
    stems: dict[str, list[int]] = defaultdict(list)
    for index in sorted(kept, key=lambda index: _hash(faces[index].family)):
        stems[re.split(r"[\s_-]", faces[index].family)[0].lower()].append(index)
    chosen = []
    for stem, indices in stems.items():
        role = next(role for role, end in ROLES.items() if _hash(stem) < end)
        chosen += [(role, index) for index in indices[:FAMILIES_A_STEM]]
        left_out["more of one stem"] += len(indices[FAMILIES_A_STEM:])
    chosen.sort(key=lambda pair: (list(ROLES).index(pair[0]), _hash(faces[pair[1]].family)))
    for reason, number in left_out.items():
        print(f"left out {number:4}: {reason}")
    result = [Typeface(**asdict(faces[index]) | {"role": role}) for role, index in chosen]
    return result, np.stack([glyphs[index] for _, index in chosen])


def _families(folder: Path) -> dict[str, Path]:
    """Each family with all characters, and its most regular font."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.[ot]tf")):
        if path.is_symlink():
            continue
        try:
            font = TTFont(path, lazy=True)
            if not {"glyf", "CFF "} & set(font.keys()):  # bitmaps alone can't be scaled
                continue
            names, weight = font["name"], font["OS/2"]
            family = names.getDebugName(16) or names.getDebugName(1) or ""
            if family.isprintable() and family.isascii() and {*map(ord, CHARACTERS)} <= set(font.getBestCmap() or ()):
                slanted = bool(weight.fsSelection & 1)
                order = (slanted, abs(weight.usWeightClass - 400), abs(weight.usWidthClass - 5), str(path))
                found[family].append((order, path))
        except Exception:  # fontTools raises many kinds for damaged files and missing tables
            continue
    return {family: min(fonts)[1] for family, fonts in found.items()}


def _rows(images: NDArray[np.generic]) -> NDArray[np.float64]:
    """Unit vectors ``[N, P]`` of images, without their mean."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _alike(one: Pixels, other: Pixels) -> float:
    rows = _rows(np.stack([one, other]))
    return float(rows[0] @ rows[1])


def _hash(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


# ---- rendering -------------------------------------------------------------------------------------------------------


def render(path: Path, characters: str = CHARACTERS) -> Pixels | None:
    """A typeface's characters ``[N, 32, 32]``, white on black; None if they can't be rendered.

    All have the one scale and baseline that fit CHARACTERS, so that s and S differ. Each is centred horizontally.
    """
    room = SIDE - 2 * MARGIN
    for size in range(2 * SIDE, 6, -1):
        try:
            font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError:  # "invalid pixel size": FreeType finds bitmaps only
            return None
        boxes = np.array([font.getbbox(character, anchor="ls") for character in CHARACTERS])
        left, top, right, bottom = boxes.T
        if bottom.max() - top.min() <= room and (right - left).max() <= room:
            break
    else:
        return None
    baseline = SIDE // 2 - (bottom.max() + top.min()) // 2
    left, top, right, bottom = np.array([font.getbbox(character, anchor="ls") for character in characters]).T
    if baseline + top.min() < 0 or baseline + bottom.max() > SIDE or (right - left).max() > SIDE:
        return None
    images = []
    for character, middle in zip(characters, (left + right) // 2, strict=True):
        image = Image.new("L", (SIDE, SIDE))
        start = (SIDE // 2 - int(middle), int(baseline))
        ImageDraw.Draw(image).text(start, character, fill=255, font=font, anchor="ls")
        images.append(np.asarray(image))
    step = 255 // (LEVELS - 1)
    return ((np.stack(images).astype(int) + step // 2) // step * step).astype(np.uint8)


def other_letters(path: Path) -> Pixels:
    """A typeface's LETTERS ``[N, 32, 32]``, at its characters' scale and baseline; black if it doesn't have all.

    It has a letter if the pixels are not empty and those of no character, of no other letter, and not the font's sign
    for "missing".
    """
    characters, missing, letters = (render(path, drawn) for drawn in (CHARACTERS, "\uffff", LETTERS))
    empty = np.zeros((len(LETTERS), SIDE, SIDE), np.uint8)
    if characters is None or letters is None or letters.mean() >= INK * characters.mean():
        return empty
    others = [*characters, *empty, *(() if missing is None else missing)]
    new = {image.tobytes() for image in letters} - {image.tobytes() for image in others}
    return letters if len(new) == len(LETTERS) else empty


def _sheet(glyphs: Pixels) -> bytes:
    """One lossless picture: a row for each typeface, a column for each character."""
    rows, columns = glyphs.shape[:2]
    sheet = glyphs.transpose(0, 2, 1, 3).reshape(rows * SIDE, columns * SIDE)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "webp", lossless=True, quality=100, method=6)
    return file.getvalue()


if __name__ == "__main__":
    main()
