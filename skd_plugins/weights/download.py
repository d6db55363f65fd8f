"""Releases in the cache: downloaded once, with the SHA-256 of each file checked before every use."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

import pooch  # type: ignore[import-untyped]  # it has no types
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download

from ..common.errors import SkdError, first_line
from ..common.files import cache_folder, file_sha256
from .manifest import Release, ReleasedFile, check_name

pooch.get_logger().setLevel("WARNING")  # no line for each file


def release_folder(name: str) -> Path:
    """Where the cache keeps the release: ``$SKD_CACHE/weights/NAME``. It may not exist yet."""
    return cache_folder() / "weights" / check_name(name)


def is_downloaded(release: Release) -> bool:
    """Whether all files of the release are in the cache, undamaged."""
    return not _unusable(release)


def _unusable(release: Release) -> list[Path]:
    """The release's files that the cache lacks or has damaged."""
    paths = {release_folder(release.name) / file.name: file.sha256 for file in release.files}
    return [path for path, sha256 in paths.items() if not path.exists() or file_sha256(path) != sha256]


def download(release: Release) -> Path:
    """Returns the folder with the release's files, after downloading those that are missing or damaged.

    A file gets its name only when it is complete and has the manifest's SHA-256. If several processes need it, one
    downloads it and the others wait.
    """
    folder = release_folder(release.name)
    if is_downloaded(release):  # checked without the lock, because a shared cache may be read-only
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for file in release.files:
                _get(release, file, folder)
    except OSError as error:
        raise SkdError(f"can't write to the cache {folder}: {error}; SKD_CACHE=FOLDER puts it elsewhere") from None
    return folder


def verify(release: Release) -> Path:
    """Checks all files of a release in the cache and returns its folder. Downloads nothing; deletes a damaged file."""
    for path in _unusable(release):
        if not path.exists():
            raise SkdError(f"{path} is not in the cache; run: skd weights download {release.name}")
        path.unlink()
        raise SkdError(f"{path} was damaged and is deleted; run: skd weights download {release.name}")
    return release_folder(release.name)


@contextmanager
def one_line_errors(what: str, way_out: str) -> Iterator[None]:
    """Turns any error of a transfer into one line. Libraries and their versions raise different ones."""
    try:
        yield
    except (SkdError, TypeError):  # a TypeError means that the caller passed a wrong argument
        raise
    except Exception as error:
        raise SkdError(f"{what}: {first_line(error)}; {way_out}") from error


def _get(release: Release, file: ReleasedFile, folder: Path) -> None:
    """Gets one file from the first address that has it, the local ones before the others."""
    reasons = []
    for url in sorted(release.urls, key=lambda url: not url.startswith(("package:", "file:"))):
        store = pooch.Pooch(folder, f"{url}/", registry={file.name: file.sha256}, retry_if_failed=1)
        try:
            store.fetch(file.name, downloader=_transfer)
            return
        except Exception as error:  # of pooch, requests, huggingface_hub or its HTTP library
            reasons.append(f"{url}: {first_line(error)}")
    raise SkdError(
        f"can't get {file.name} of the weights {release.name}: {'; '.join(reasons)}. Or copy the file to {folder}; "
        "SKD_CACHE=FOLDER puts the cache elsewhere"
    )


def _transfer(url: str, output: str, store: Any) -> None:
    """Downloads for pooch from any address of a release (see `Release`)."""
    os.unlink(output)  # pooch's own file is readable for its owner only; a new one follows the umask
    scheme, _, rest = url.partition(":")
    if scheme == "package":
        shutil.copyfile(Path(__file__).parent / "released" / rest, output)
    elif scheme == "file":
        shutil.copyfile(unquote(urlsplit(url).path), output)
    elif constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set, so the network is not used")
    elif scheme == "hf":
        owner, repository, file = rest.removeprefix("//").split("/")
        repository, _, revision = repository.partition("@")
        with TemporaryDirectory(dir=Path(output).parent) as folder:
            path = hf_hub_download(f"{owner}/{repository}", file, revision=revision or None, local_dir=folder)
            os.replace(path, output)
    else:
        pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20)(url, output, store)
