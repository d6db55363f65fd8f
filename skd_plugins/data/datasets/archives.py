"""Downloads and unpacks archives: verified, confined to the folder, complete or not at all."""

import errno
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ...common.errors import SkdError
from ...common.files import checksum
from ...common.meter import Meter, tracked
from .dataset import Archive

# An archive of images unpacks to about its size, one of arrays to ten times that. More than this is a bomb.
_FACTOR, _ALWAYS, _ENTRY = 100, 1 << 30, 1024  # times its size; bytes that are always fine; bytes for each member
# The operating system's errors that are about the disk, not about the archive.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def provide(archive: Archive, root: Path, *, download: bool) -> str:
    """Makes sure that the contents of an archive are under the root; returns what was done, if anything."""
    wanted, folder = root / archive.contents, root / archive.into
    if _is_there(wanted):
        return ""
    found = next((place for place in (folder / archive.name, root / archive.name) if place.is_file()), None)
    done = f"took {found}"
    if found is None:
        if archive.optional:
            return ""
        if not (download and archive.free):
            way = "add --download, or fetch it by hand" if archive.free else "fetch it by hand"
            raise SkdError(f"{wanted} does not exist; {way}: put {archive.url} at {root / archive.name}")
        found = folder / archive.name
        from torchvision.datasets.utils import download_url  # with torch, which only a download needs

        try:
            download_url(archive.url, str(folder), filename=archive.name)
        except (OSError, RuntimeError) as error:
            raise SkdError(f"{archive.url} could not be downloaded to {folder}: {error}") from None
        done = f"downloaded {found}"
    if archive.md5 and (md5 := checksum(found, "md5")) != archive.md5:
        raise SkdError(f"{found} is damaged or incomplete (MD5 {md5}, not {archive.md5}); remove it and fetch it again")
    if wanted.name != archive.name:
        unpack(found, folder, nested=archive.nested)
        if not _is_there(wanted):
            raise SkdError(f"{found} was unpacked, but does not contain {wanted}; is it the right archive?")
    elif found != wanted:  # a plain file
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, wanted)
    return done


def _is_there(path: Path) -> bool:
    """Whether the contents exist; hidden leftovers of a killed `unpack` do not count."""
    return path.is_file() or (path.is_dir() and any(not name.startswith(".") for name in os.listdir(path)))


def unpack(path: Path, folder: Path, *, nested: bool = False) -> None:
    """Unpacks a tar or zip archive into a folder, completely or not at all.

    With `nested` the archives inside are unpacked too, ``NAME.tar`` into a folder ``NAME``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        _extract(path, part)
        for inner in tracked(sorted(part.glob("*.tar")) if nested else (), f"unpacking the archives of {path.name}"):
            if not inner.is_file() or inner.with_suffix("").exists():
                raise SkdError(f"{path}: its {inner.name} is no file, or what it unpacks to exists; fetch it again")
            _extract(inner, inner.with_suffix(""))
            inner.unlink()
        for name in sorted(os.listdir(part)):
            if (folder / name).exists():
                raise SkdError(f"{folder / name} exists already, so {path} is not unpacked; remove one of them")
        for name in os.listdir(part):
            os.replace(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not os.listdir(folder):
            folder.rmdir()


def _extract(path: Path, folder: Path) -> None:
    limit = max(_FACTOR * path.stat().st_size, _ALWAYS)
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size + _ENTRY
        if total > limit:
            raise SkdError(
                f"{path} unpacks to more than {limit >> 20} MB, too much for its size; it is no data set: remove it"
            )

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    count(member.file_size)
                for member in tracked(archive.infolist(), f"unpacking {path.name}"):
                    archive.extract(member, folder)  # keeps every name inside the folder
        elif _is_tar(path):
            _extract_tar(path, folder, count)
        else:
            raise SkdError(f"{path} is neither a tar nor a zip archive; fetch it again")
    except tarfile.FilterError as error:
        raise SkdError(f"{path} has a member outside its folder or of a special kind ({error})") from None
    except SkdError:
        raise
    except Exception as error:  # of tarfile, zipfile, zlib or lzma
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise OSError(error.errno, f"{path} can't be unpacked: {error.strerror}", error.filename) from None
        raise SkdError(f"{path} is damaged: {error}") from None


class _Member(tarfile.TarInfo):
    """A member whose extended header, which tarfile reads into memory at once, has at most 1 MB."""

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > 1 << 20:
            raise SkdError(f"{archive.name!s} has a header of {self.size >> 20} MB; it is no data set: remove it")
        found: tarfile.TarInfo = super()._proc_pax(archive)  # type: ignore[misc]  # not in typeshed
        return found


class _Tar(tarfile.TarFile):
    tarinfo = _Member


def _is_tar(path: Path) -> bool:
    try:
        with _Tar.open(path):
            return True
    except tarfile.ReadError:
        return False


def _extract_tar(path: Path, folder: Path, count: Callable[[int], None]) -> None:
    meter = Meter(f"unpacking {path.name}", path.stat().st_size)
    with path.open("rb") as file, _Tar.open(fileobj=file) as archive, meter:

        def checked(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
            count(member.size)
            meter.advance(file.tell() - meter.done)  # compressed bytes
            return tarfile.data_filter(member, folder)

        archive.extractall(folder, filter=checked)
