"""Files that somebody made to do harm: nothing is executed, nothing is written outside the target, no disk is filled.

Names of weights and manifests, links in the cache, wrong checksums and servers without end: tests/test_manifest.py and
tests/test_download.py. Members of archives outside their folder: tests/test_archives.py.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from skd_plugins import SkdError, load_weights
from skd_plugins.data.datasets.archives import unpack
from skd_plugins.weights import checkpoint

from .common import Report


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def _pth(place: Path, wrap: Callable[[object], object], *, old: bool = False, bare: bool = False) -> Path:
    evil = wrap(Payload(place / "executed"))
    path = place / "evil.pth"
    if bare:
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=not old)
    return path


def _zip_bomb(place: Path, *, honest: bool) -> Path:
    """1.1 GB of zeros in 1 MB; one that is not honest says that it has 1 KB."""
    path = place / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(1100 if honest else 64):
            member.write(bytes(1 << 20))
    if not honest:
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02")
        data[at + 24 : at + 28] = (1024).to_bytes(4, "little")
        path.write_bytes(data)
    return path


def _zip_of_many(place: Path) -> Path:
    path = place / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(34):
            archive.writestr(f"zeros{number}", bytes(32 << 20))
    return path


def _tar_bomb(place: Path, *, mode: str) -> Path:
    path = place / f"bomb.tar.{mode}"
    with tarfile.open(path, f"w:{mode}", **({"preset": 0} if mode == "xz" else {"compresslevel": 1})) as archive:
        for number in range(34):
            member = tarfile.TarInfo(f"zeros{number}")
            member.size = 32 << 20
            archive.addfile(member, io.BytesIO(bytes(32 << 20)))
    return path


def _tar_device(place: Path) -> Path:
    path = place / "device.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("disk")
        member.type, member.devmajor, member.devminor = tarfile.BLKTYPE, 254, 0
        archive.addfile(member)
    return path


def _tar_link(place: Path) -> Path:
    """A link out of the folder, and a file through it."""
    path = place / "link.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
        archive.addfile(link)
        file = tarfile.TarInfo("images/owned")
        file.size = 3
        archive.addfile(file, io.BytesIO(b"bad"))
    return path


def _safetensors_link(place: Path) -> Path:
    """Weights whose header claims terabytes."""
    path = place / "evil.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    data = bytearray(path.read_bytes())
    data[:8] = (2**62).to_bytes(8, "little")
    path.write_bytes(data)
    path.with_suffix(".json").write_text('{"model": "resnet18", "model_args": {}, "num_classes": 10}')
    return path


def _model_name(place: Path) -> Path:
    """A card that names code on the Hub as its network."""
    path = place / "evil.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    path.with_suffix(".json").write_text('{"model": "hf-hub:evil/net", "model_args": {}, "num_classes": 10}')
    return path


def _read(path: Path) -> None:
    checkpoint.read(path)


def _unpack(path: Path) -> None:
    unpack(path, path.parent / "into")


def _network(path: Path) -> None:
    from skd_plugins.weights.load import load_network

    os.environ["HF_HUB_OFFLINE"] = "1"
    load_network(path)


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "pickle in a .pth": (lambda place: _pth(place, lambda evil: {"state_dict": evil}), _read),
    "pickle as a .pth": (lambda place: _pth(place, lambda evil: evil, bare=True), _read),
    "pickle in an old .pth": (lambda place: _pth(place, lambda evil: [evil], old=True), _read),
    "pickle as weights": (lambda place: _pth(place, lambda evil: {"card": evil}), load_weights),
    "pickle in a tensor's place": (lambda place: _pth(place, lambda evil: {"state_dict": {"a": evil}}), load_weights),
    "zip bomb": (lambda place: _zip_bomb(place, honest=True), _unpack),
    "zip bomb that lies": (lambda place: _zip_bomb(place, honest=False), _unpack),
    "zip bomb of many": (_zip_of_many, _unpack),
    "tar bomb, gz": (lambda place: _tar_bomb(place, mode="gz"), _unpack),
    "tar bomb, xz": (lambda place: _tar_bomb(place, mode="xz"), _unpack),
    "device in a tar": (_tar_device, _unpack),
    "link out of a tar": (_tar_link, _unpack),
    "header of terabytes": (_safetensors_link, load_weights),
    "network from somewhere": (_model_name, _network),
}


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    for number, (name, (make, use)) in enumerate(list(CASES.items())[:count]):
        place = folder / "arena" / f"case{number}"
        place.mkdir(parents=True)
        path = make(place)
        before = _files(folder)
        free = shutil.disk_usage(folder).free
        tracemalloc.start()
        try:
            use(path)
            outcome, story = "accepted", ""
        except SkdError as error:
            outcome, story = "refused", str(error)
        except Exception as error:
            outcome, story = "unforeseen exception", repr(error)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        new = {file for file in _files(folder) - before if os.path.isfile(file) or os.path.islink(file)}
        fine = outcome == "refused" and not new and peak < 500 << 20
        report.add(outcome, fine, f"{name}: {story}; new files {sorted(new)}, {free} free, peak {peak >> 20} MB")
        shutil.rmtree(place)
    return report


def _files(folder: Path) -> set[str]:
    return {os.path.join(place, name) for place, folders, names in os.walk(folder) for name in folders + names}
