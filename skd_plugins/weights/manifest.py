"""The manifest: which weights are released, their files and checksums, where they are, and their metrics."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ..common.errors import SkdError, unknown
from ..common.files import write_text
from ..common.typed import first_problem

MANIFEST = Path(__file__).with_name("manifest.json")
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "config.json"
TRAIN_IT = "if a recipe has this name, train it, then run: skd export RUN --out weights"

_WORD = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_NAME = re.compile(rf"{_WORD}(\.{_WORD})+")
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_URL = re.compile(rf"https?://[^\s/]+(/\S*)?|file:///\S+|hf://{_REPOSITORY}(@[\w.-]+)?|package:{_WORD}(\.{_WORD})*")


def check_name(name: str) -> str:
    """Returns a valid name of weights, which is also a folder's name in the cache."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise SkdError(
            f"{name!r} is not a name of weights; names are arch.tag, of letters, digits, _ and -, up to 100 characters"
        )
    return name


def check_url(url: str) -> str:
    """Returns a valid address of a release without a slash at its end."""
    if not _URL.fullmatch(url):
        raise SkdError(
            f"{url!r} is not an address of a release; give https://HOST/FOLDER, hf://OWNER/NAME[@REVISION], "
            "file:///FOLDER or package:FOLDER"
        )
    return url.rstrip("/")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReleasedFile(_Strict):
    """A file in the folder of a release; `size` is in bytes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    size: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Release(_Strict):
    """Released weights, as the manifest lists them.

    Attributes:
        files: ``model.safetensors``, ``config.json`` (timm's, with our card in it) and further ones.
        urls: folders that each hold all files: ``https://`` (or ``http://``), ``hf://OWNER/NAME@REVISION`` on the
            Hugging Face Hub, ``file://``, or ``package:FOLDER`` in ``released/`` beside this module.
    """

    name: Annotated[str, AfterValidator(check_name)]
    files: tuple[ReleasedFile, ...]
    urls: Annotated[tuple[Annotated[str, AfterValidator(check_url)], ...], Field(min_length=1)]
    metrics: dict[str, int | FiniteFloat]  # of exactly these files; accuracies and ECE are fractions
    evaluation: str  # the command that measured them
    recipe: str  # the command line that trained them
    commit: str | None  # of the code that trained them
    data: str
    license: str  # an SPDX identifier


class _Manifest(_Strict):
    version: Literal[1]
    weights: tuple[Release, ...]


def load_manifest(path: Path = MANIFEST) -> dict[str, Release]:
    """The releases of a manifest by name, in its order."""
    try:
        releases = _Manifest.model_validate_json(path.read_text(encoding="utf-8")).weights
    except ValidationError as error:
        raise SkdError(f"{path}: {first_problem(error)}") from None
    except (OSError, UnicodeDecodeError, SkdError) as error:
        raise SkdError(f"{path} is not a readable manifest: {error}") from None
    return {release.name: release for release in releases}


def all_releases() -> dict[str, Release]:
    """The package's releases, and those of the manifest in ``SKD_WEIGHTS_MANIFEST``, such as a laboratory's own."""
    releases, own = load_manifest(), os.environ.get("SKD_WEIGHTS_MANIFEST")
    further = load_manifest(Path(own)) if own else {}
    for name in further.keys() & releases.keys():
        raise SkdError(f"SKD_WEIGHTS_MANIFEST: {own} has {name}, a name of the package's weights; give it another tag")
    return releases | further


def find_release(name: str) -> Release:
    """The release of that name."""
    releases = all_releases()
    if check_name(name) not in releases:
        error = unknown("weights", name, releases)
        raise SkdError(f"{error}; {TRAIN_IT}")
    return releases[name]


def check_addable(manifest: Path, name: str) -> tuple[Release, ...]:
    """The releases of a manifest, which need not exist yet; raises SkdError if it can't take one of that name."""
    own = load_manifest(manifest) if manifest.exists() else {}
    for names, owner in ((own, manifest), (load_manifest(), "the package")):
        if name in names:
            raise SkdError(f"{owner} already has weights called {name}; give another --tag")
    return tuple(own.values())


def add_entry(manifest: Path, entry: Release) -> None:
    """Adds a release to a manifest, and begins the manifest if there is none."""
    weights = (*check_addable(manifest, entry.name), entry)
    write_text(manifest, _Manifest(version=1, weights=weights).model_dump_json(indent=1) + "\n")
