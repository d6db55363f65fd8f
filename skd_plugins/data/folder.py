"""Image folders."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..common.errors import SkdError
from .sources import read_folder


class FolderData:
    """A folder with one subfolder a class; `targets` are the labels ``[N]``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise SkdError(f"{self.path} is not a folder")
        self.samples, self.classes = read_folder(self.path)
        self.targets = np.array([label for _, label in self.samples], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def fingerprint(self) -> str:
        """A digest of the files' names in the folder, and of the sizes of up to 10,000 of them."""
        digest = hashlib.sha256()
        every = -(-len(self.samples) // 10_000)  # on a network's file system, a million sizes take minutes
        for index, (file, _) in enumerate(self.samples):
            digest.update(file.removeprefix(str(self.path)).encode(errors="surrogateescape") + b"\n")
            if index % every == 0:
                with suppress(OSError):  # a link to nowhere; `skip_broken` takes it
                    digest.update(b"%d\n" % os.stat(file).st_size)
        return digest.hexdigest()

    def name_of(self, index: int) -> str:
        """What messages call a sample."""
        return f"{self.samples[index][0]} (index {index})"
