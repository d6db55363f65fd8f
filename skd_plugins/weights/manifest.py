"""The list of the weights that exist: names, files, checksums, where they are, what they reach."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..common.errors import SkdError, unknown
from ..common.files import write_text
from ..common.typed import first_problem

MANIFEST = Path(__file__).with_name("manifest.json")
OWN_MANIFEST = "SKD_WEIGHTS_MANIFEST"
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "config.json"

_WORD = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_NAME = re.compile(rf"{_WORD}(\.{_WORD})+")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_URL = re.compile(rf"https://[^\s/]+(/\S*)?|file:///\S+|hf://{_REPOSITORY}(@[\w.-]+)?|package:{_WORD}(\.{_WORD})*")


def check_name(name: str) -> str:
    """The name, if it is one that weights can have: it is also a folder's name in the cache.

    Raises:
        SkdError: it is not of the form ``arch.tag``, or longer than 100 characters.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise SkdError(
            f"{name!r} is not a name of weights: arch.tag, of letters, digits, _ and -, at most 100 characters"
        )
    return name


def _valid_name(name: str) -> str:
    try:
        return check_name(name)
    except SkdError as error:
        raise ValueError(str(error)) from None


def _valid_file(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _valid_url(url: str) -> str:
    if not _URL.fullmatch(url):
        raise ValueError(
            f"{url!r} is none of https://HOST/FOLDER, hf://OWNER/NAME[@REVISION], file:///FOLDER, package:FOLDER"
        )
    return url.rstrip("/")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReleasedFile(_Strict):
    """One file of a release.

    Attributes:
        name: in the release's folder.
        size: bytes.
        sha256: of the content, hexadecimal.
    """

    name: Annotated[str, AfterValidator(_valid_file)]
    size: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Release(_Strict):
    """Weights that somebody can have.

    Attributes:
        name: ``arch.tag``.
        files: ``model.safetensors``, ``config.json`` (timm's, with our card in it) and what else belongs to them.
        urls: folders that hold all files, each a full mirror: ``https://``, ``hf://OWNER/NAME@REVISION`` (Hugging Face
            Hub), ``file://``, or ``package:FOLDER`` in ``released/`` beside this file.
        metrics: what ``skd evaluate`` measured on these very files; accuracies and ECE are fractions.
        evaluation: the command that did.
        recipe: the command line that trained them.
        commit: of the code that trained them.
        data: what they were trained on.
        license: SPDX identifier.
    """

    name: Annotated[str, AfterValidator(_valid_name)]
    files: Annotated[tuple[ReleasedFile, ...], Field(min_length=1)]
    urls: Annotated[tuple[Annotated[str, AfterValidator(_valid_url)], ...], Field(min_length=1)]
    metrics: dict[str, int | Annotated[float, Field(allow_inf_nan=False)]]
    evaluation: str
    recipe: str
    commit: str | None
    data: str
    license: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def _unique(releases: tuple[Release, ...]) -> tuple[Release, ...]:
    twice = [name for name, count in Counter(release.name for release in releases).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is there twice")
    for release in releases:
        names = [file.name for file in release.files]
        if len(set(names)) < len(names):
            raise ValueError(f"{release.name} has a file twice")
        for needed in (WEIGHTS_FILE, CARD_FILE):
            if needed not in names:
                raise ValueError(f"{release.name} has no {needed}")
    return releases


class _Manifest(_Strict):
    version: Literal[1]
    weights: Annotated[tuple[Release, ...], AfterValidator(_unique)]


@cache
def load_manifest(path: Path = MANIFEST) -> dict[str, Release]:
    """The releases of a manifest by name, in its order.

    Raises:
        SkdError: the file is not a manifest; the message names the first thing that is wrong.
    """
    try:
        return _checked(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise SkdError(f"{path} is not a readable manifest: {error}") from None


def _checked(text: str, path: Path) -> dict[str, Release]:
    try:
        manifest = _Manifest.model_validate_json(text)
    except ValidationError as error:
        raise SkdError(f"{path}: {first_problem(error)}") from None
    return {release.name: release for release in manifest.weights}


def check_addable(manifest: Path, name: str) -> dict[str, Any]:
    """The content of a manifest that can get an entry of that name; of one that is not there, its beginning.

    Raises:
        SkdError: the manifest is damaged or can't be written, or the name is one of its own or of the package's.
    """
    try:
        text = manifest.read_text(encoding="utf-8") if manifest.exists() else '{"version": 1, "weights": []}'
        manifest.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=manifest.parent).close()  # it will be replaced by a file written there
    except (OSError, UnicodeDecodeError) as error:
        raise SkdError(f"{manifest} can't be a manifest: {error}; give another --manifest") from None
    for names, whose in ((_checked(text, manifest), str(manifest)), (load_manifest(), "the package")):
        if name in names:
            raise SkdError(f"{name} is the name of weights of {whose} already; give another --tag")
    content: dict[str, Any] = json.loads(text)
    return content


def add_entry(manifest: Path, entry: Path) -> None:
    """Adds a release's entry, a file that ``skd release`` wrote, to a manifest, which is begun if it is not there.

    Raises:
        SkdError: see `check_addable`; or the entry is not one. The manifest stays as it is.
    """
    added = json.loads(entry.read_text(encoding="utf-8"))
    content = check_addable(manifest, added["name"])
    content["weights"].append(added)
    text = json.dumps(content, indent=1) + "\n"
    _checked(text, manifest)
    write_text(manifest, text)
    load_manifest.cache_clear()


def all_releases() -> dict[str, Release]:
    """The package's releases, and those of the manifest that ``SKD_WEIGHTS_MANIFEST`` names, a laboratory's own.

    Raises:
        SkdError: that file is not a manifest, or has a name that the package's weights have.
    """
    releases, own = load_manifest(), os.environ.get(OWN_MANIFEST)
    if not own:
        return releases
    further = load_manifest(Path(own))
    for name in further.keys() & releases.keys():
        raise SkdError(f"{OWN_MANIFEST}: {name} in {own} is the name of weights of the package; give it another tag")
    return releases | further


def find_release(name: str) -> Release:
    """The release of that name.

    Raises:
        SkdError: the name is not a possible one, or there are no such weights.
    """
    releases = all_releases()
    if check_name(name) not in releases:
        raise unknown("weights", name, releases)
    return releases[name]
