"""Fetching and unpacking archives: checked, nothing outside the folder, nothing half there."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ...common.errors import SkdError
from ...common.meter import Meter, tracked
from .dataset import Archive

# Errors of the place that is written to; others are the archive's.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def provide(archive: Archive, root: Path, *, download: bool) -> str:
    """Makes sure that an archive's contents are under the root: as they are, unpacked, or downloaded.

    Args:
        archive: what is wanted.
        root: the data set's root.
        download: fetch what is missing, where that is allowed.

    Returns:
        What was done, empty if everything was there.

    Raises:
        SkdError: it is not there and can't be fetched (the message says what to put where), or it is damaged.
    """
    wanted, folder = root / archive.contents, root / archive.into
    if _there(wanted):
        return ""
    found = next((place for place in (folder / archive.name, root / archive.name) if place.is_file()), None)
    done = "took"
    if found is None:
        if archive.optional:
            return ""
        if not (download and archive.free):
            way = "add --download, or fetch it by hand" if archive.free else "fetch it by hand"
            raise SkdError(f"{wanted} does not exist; {way}: put {archive.url} at {root / archive.name}")
        found = fetch(archive, folder)
        done = "downloaded"
    if archive.md5:
        _check_sum(found, archive.md5)
    if wanted.name != archive.name:
        unpack(found, folder, nested=archive.nested)
        if not _there(wanted):
            raise SkdError(f"{found} was unpacked, but {wanted} is not there; is it another archive?")
    elif found != wanted:  # a plain file
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, wanted)
    return f"{done} {found}"


def _there(path: Path) -> bool:
    """Whether it exists and is more than what an unpacking that was killed leaves, a folder with hidden parts."""
    return path.exists() and not (path.is_dir() and all(name.startswith(".") for name in os.listdir(path)))


def fetch(archive: Archive, folder: Path) -> Path:
    """Downloads an archive into a folder; torchvision checks the sum.

    Raises:
        SkdError: it can't be downloaded, or is damaged.
    """
    from torchvision.datasets.utils import download_url

    try:
        download_url(archive.url, str(folder), filename=archive.name, md5=archive.md5)
    except (OSError, RuntimeError) as error:
        raise SkdError(f"{archive.url} could not be downloaded to {folder}: {error}") from None
    return folder / archive.name


def _check_sum(path: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, Meter(f"checking {path.name}", path.stat().st_size) as meter:
        while block := file.read(1 << 20):
            digest.update(block)
            meter.advance(len(block))
    found = digest.hexdigest()
    if found != md5:
        raise SkdError(f"{path} is damaged or incomplete (MD5 {found}, not {md5}); remove it and fetch it again")


def unpack(path: Path, folder: Path, *, nested: bool = False) -> None:
    """Unpacks a tar or zip archive into a folder.

    With `nested` the archives in it are unpacked too, ``NAME.tar`` into a folder ``NAME``. All is unpacked beside the
    place and moved there when it is complete, so what was interrupted leaves nothing behind.

    Raises:
        SkdError: it is not an archive, is damaged, would write outside the folder, or into what is there already.
        OSError: the folder can't be written, or not all of it: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        _unpack_into(path, part)
        for inner in tracked(sorted(part.glob("*.tar")) if nested else (), f"unpacking the archives of {path.name}"):
            inner.with_suffix("").mkdir()
            _unpack_into(inner, inner.with_suffix(""))
            inner.unlink()
        taken = [name for name in sorted(os.listdir(part)) if (folder / name).exists()]
        if taken:
            raise SkdError(f"{folder / taken[0]} is there already, so {path} is not unpacked; remove one of them")
        for name in os.listdir(part):
            os.replace(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not os.listdir(folder):
            folder.rmdir()


def _unpack_into(path: Path, folder: Path) -> None:
    if zipfile.is_zipfile(path):
        _unpack_zip(path, folder)
    elif tarfile.is_tarfile(path):
        _unpack_tar(path, folder)
    else:
        raise SkdError(f"{path} is neither a tar nor a zip archive; fetch it again")


class _Size:
    """Counts what comes out of an archive, and refuses what can't be a data set: a small file that fills the disk.

    Images do not get smaller in an archive; tables of numbers by up to a factor of about ten.
    """

    _FACTOR, _ALWAYS, _ENTRY = 100, 1 << 30, 1024  # bytes, and those that a member costs however small it is

    def __init__(self, path: Path) -> None:
        self.path, self.total = path, 0
        self.limit = max(self._FACTOR * path.stat().st_size, self._ALWAYS)

    def add(self, size: int) -> None:
        self.total += size + self._ENTRY
        if self.total > self.limit:
            raise SkdError(
                f"{self.path} unpacks to more than {self.limit >> 20} MB, {self._FACTOR} times its size or more: it is "
                "no data set, and is not unpacked"
            )


def _unpack_zip(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = PurePosixPath(name.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in name:
                    raise SkdError(f"{path} has a member outside its folder ({name!r}); it is not unpacked")
            size = _Size(path)
            members = archive.infolist()
            for member in members:
                size.add(member.file_size)  # zipfile gives no more than that
            for member in tracked(members, f"unpacking {path.name}", size.total, lambda member: member.file_size):
                archive.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise _unusable(path, error) from None


def _unpack_tar(path: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise SkdError(f"{path}: this Python can't unpack safely; unpack it in {folder.parent}, or update Python")
    try:
        size, meter = _Size(path), Meter(f"unpacking {path.name}", path.stat().st_size)
        with path.open("rb") as file, tarfile.open(fileobj=file) as archive, meter:

            def counted(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
                size.add(member.size)
                meter.advance(file.tell() - meter.done)  # also of a compressed archive
                return tarfile.data_filter(member, folder)

            archive.extractall(folder, filter=counted)
    except tarfile.FilterError as error:
        raise SkdError(f"{path} has a member outside its folder or of a special kind ({error})") from None
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> Exception:
    """The system's own error if it is about writing; else the archive is damaged, whatever the unpacker calls that."""
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return OSError(error.errno, f"{path} can't be unpacked: {error.strerror}", error.filename)
    return SkdError(f"{path} is damaged: {error}")
