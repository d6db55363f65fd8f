"""Releases in the cache: downloaded once, verified before every use."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import SkdError
from ..common.files import cache_folder
from .manifest import Release, ReleasedFile, check_name
from .places import places
from .transfer import UnreachableError, has_content, transfer, unwritable

TRIES = 3  # of a place that fails in a way that may pass
_log = logging.getLogger("skd_plugins")


def release_folder(name: str) -> Path:
    """The folder of that release in the cache, ``$SKD_CACHE/weights/NAME``; it need not be there.

    Raises:
        SkdError: the name is not one that weights can have, or the folder is a link.
    """
    folder = cache_folder() / "weights" / check_name(name)
    _no_link(folder)
    return folder


def is_downloaded(release: Release) -> bool:
    """Whether all files of the release are in the cache and have their checksums."""
    folder = release_folder(release.name)
    return all(has_content(_plain(folder, file), file) for file in release.files)


def download(release: Release) -> Path:
    """The folder with the release's files, each of them verified; what is missing is downloaded.

    Several processes may call this at once: one of them downloads, the others wait for it. A file comes under its name
    only when it is complete and its SHA-256 is the manifest's. A transfer that was interrupted, even by a crash,
    continues where it ended.

    Raises:
        SkdError: no place has the files as the manifest states them; ``HF_HUB_OFFLINE`` is set; the cache can't be
            written.
    """
    folder = release_folder(release.name)
    if is_downloaded(release):  # without the lock: the cache may be somebody else's and read-only
        return folder
    with _locked(folder):
        for file in release.files:
            path = _plain(folder, file)
            if has_content(path, file):
                continue
            if path.exists():
                _log.warning("%s is damaged; it is deleted and downloaded again", path)
                path.unlink()
            _download_file(release, file, folder)
    return folder


def verify(release: Release) -> Path:
    """The folder of a release that is in the cache, all its files verified. Downloads nothing.

    Raises:
        SkdError: it is not there, or a file is damaged. A damaged file is deleted.
    """
    folder = release_folder(release.name)
    again = f"skd weights download {release.name}"
    for file in release.files:
        path = _plain(folder, file)
        if not path.exists():
            raise SkdError(f"{release.name} is not in the cache ({path} is missing): {again}")
        if not has_content(path, file):
            try:
                path.unlink()
            except OSError as error:
                raise unwritable(path, error) from None
            raise SkdError(f"{path} was not what the manifest states and is deleted: {again}")
    return folder


def _download_file(release: Release, file: ReleasedFile, folder: Path) -> None:
    """Tries all places; the first that has the file ends it."""
    # With the checksum in its name a part can't be continued with another version's end.
    part = folder / f".{file.name}.{file.sha256[:12]}.part"
    _no_link(part)
    reasons = []
    found = [place for place in places(release, file.name) if isinstance(place, Path) or not _offline()]
    for place in found:
        try:
            _from_place(place, part, file)
        except UnreachableError as error:
            reasons.append(f"{place}: {error}")
            continue
        os.replace(part, folder / file.name)
        return
    if _offline():
        reasons.append("HF_HUB_OFFLINE is set, so the network is not asked")
    raise SkdError(
        f"weights {release.name!r}: {file.name} could not be had: {'; '.join(reasons)}. SKD_WEIGHTS_MIRROR=URL asks "
        f"URL/{release.name}/{file.name}; or copy the file to {folder}"
    )


def _from_place(place: Path | str, part: Path, file: ReleasedFile) -> None:
    """Completes and verifies the part file from one place, with a few tries."""
    for left in reversed(range(TRIES)):
        begun = part.exists() and part.stat().st_size > 0
        try:
            transfer(place, part, file)
        except UnreachableError as error:
            if not (error.again and left):
                raise
            time.sleep(TRIES - left)
            continue
        if has_content(part, file):
            return
        part.unlink()
        if not (begun and left):  # whole from this place, and wrong: another try would only cost time
            break
    raise UnreachableError("its checksum is not the manifest's; what arrived is deleted", again=False)


def _offline() -> bool:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return HF_HUB_OFFLINE


def _plain(folder: Path, file: ReleasedFile) -> Path:
    path = folder / file.name
    _no_link(path)
    return path


def _no_link(path: Path) -> None:
    """Nothing in the cache is a link: one could lead a download, or a deletion, out of it."""
    if path.is_symlink():
        raise SkdError(f"{path} is a link, and the cache has none: remove it")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock; the kernel releases it when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise unwritable(folder, error) from None
    finally:
        os.close(handle)
