"""Files that somebody made to do harm: nothing is executed, nothing is written outside the target.

Names of weights and manifests, links in the cache, wrong checksums and servers without end: tests/test_manifest.py and
tests/test_download.py. Members of archives outside their folder: tests/test_archives.py.
"""

import io
import os
import pickle
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from skd_plugins import SkdError, load_weights
from skd_plugins.data.datasets.archives import unpack
from skd_plugins.weights import checkpoint
from skd_plugins.weights.load import load_network

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


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def _tar(*members: tuple[str, bytes, dict[str, Any]]) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        with tarfile.open(place / "evil.tar", "w") as archive:
            for name, content, fields in members:
                _add(archive, name, content, **fields)
        return place / "evil.tar"

    return make


def _weights(model: str, *, header: int | None = None) -> Callable[[Path], Path]:
    """Weights whose card names a network, and whose header may claim a size."""

    def make(place: Path) -> Path:
        path = place / "evil.safetensors"
        save_file({"a": torch.zeros(4)}, path)
        if header is not None:
            path.write_bytes(header.to_bytes(8, "little") + path.read_bytes()[8:])
        path.with_suffix(".json").write_text(f'{{"model": "{model}", "model_args": {{}}, "num_classes": 10}}')
        return path

    return make


def _unpack(path: Path) -> None:
    unpack(path, path.parent / "into")


def _network(path: Path) -> None:
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1"):
        load_network(path)


LINK = {"type": tarfile.SYMTYPE, "linkname": "../../outside"}
OUTSIDE, PICKLE = "a member outside its folder or of a special kind", "not a readable checkpoint: "
SYSTEM = f"{PICKLE}it contains a posix.system"
# What is made, how it is used, and what the message has to contain.
CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], str]] = {
    "pickle in a .pth": (lambda place: _pth(place, lambda evil: {"state_dict": evil}), checkpoint.read, SYSTEM),
    "pickle as a .pth": (lambda place: _pth(place, lambda evil: evil, bare=True), checkpoint.read, PICKLE),
    "pickle in an old .pth": (lambda place: _pth(place, lambda evil: [evil], old=True), checkpoint.read, PICKLE),
    "pickle as weights": (lambda place: _pth(place, lambda evil: {"card": evil}), load_weights, SYSTEM),
    "pickle in a tensor's place": (
        lambda place: _pth(place, lambda evil: {"state_dict": {"a": evil}}), load_weights, SYSTEM,
    ),
    "device in a tar": (
        _tar(("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 254, "devminor": 0})), _unpack, OUTSIDE,
    ),
    "link out of a tar": (_tar(("images", b"", LINK), ("images/owned", b"bad", {})), _unpack, OUTSIDE),
    "header of terabytes": (_weights("resnet18", header=2**62), load_weights, "damaged"),
    "network from somewhere": (_weights("hf-hub:evil/net"), _network, "is not a weights card: model"),
}  # fmt: skip


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    for number, (name, (make, use, words)) in enumerate(list(CASES.items())[:count]):
        place = folder / "arena" / f"case{number}"
        place.mkdir(parents=True)
        path = make(place)
        before = _files(folder)
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
        fine = outcome == "refused" and words in story and not new and peak < 500 << 20
        report.add(outcome, fine, f"{name}: {story}; new files {sorted(new)}, peak {peak >> 20} MB")
        shutil.rmtree(place)
    return report


def _files(folder: Path) -> set[str]:
    return {os.path.join(place, name) for place, folders, names in os.walk(folder) for name in folders + names}
