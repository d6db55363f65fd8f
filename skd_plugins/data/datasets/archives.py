"""Downloads and unpacks archives: verified, confined to the folder, complete or not at all."""

import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from ...common.errors import SkdError, first_line
from ...common.files import checksum
from ...common.meter import tracked
from .dataset import Archive

if sys.version_info >= (3, 12):
    import tarfile
else:  # Debian 12's Python 3.11.2 has no filters
    from backports import tarfile


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
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in tracked(archive.infolist(), f"unpacking {path.name}"):
                    archive.extract(member, folder)  # keeps every name inside the folder
            return
        with path.open("rb") as file, tarfile.open(fileobj=file) as tar:
            for entry in tracked(tar, f"unpacking {path.name}", path.stat().st_size, file.tell):  # compressed bytes
                tar.extract(entry, folder, filter="data")
    except tarfile.FilterError as error:
        raise SkdError(f"{path} has a member outside its folder or of a special kind ({error})") from None
    except Exception as error:  # of tarfile, zipfile, gzip, zlib or lzma
        if isinstance(error, OSError) and error.errno:  # the disk's, not gzip's
            raise OSError(error.errno, f"{path} can't be unpacked: {error.strerror}", error.filename) from None
        raise SkdError(f"{path} is damaged or no archive: {first_line(error)}; fetch it again") from None
