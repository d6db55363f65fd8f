"""Image folders, read by PIL."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from ..common.errors import SkdError
from .augment import Augmentation, training_boxes
from .sources import read_folder, read_rgb

Request = tuple[int, int, int, int]  # sample, epoch, position, segment


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


@cache
def _evaluation(size: int, crop_pct: float, interpolation: str) -> Callable[[Image.Image], Any]:
    transform: Callable[[Image.Image], Any] = create_transform(
        (3, size, size), use_prefetcher=True, crop_pct=crop_pct, interpolation=interpolation
    )
    return transform


class FolderImages(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """What the loader's workers index: a request gives an image, and the reason if it can't be decoded.

    Args:
        clean: for each segment whether it gets the evaluation transform.
    """

    def __init__(self, data: FolderData, spec: Augmentation, *, seed: int, clean: tuple[bool, ...]) -> None:
        self.data, self.spec, self.seed, self.clean = data, spec, seed, clean

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, str]:
        """The image as uint8 ``[H, W, 3]``, or a black one and why it can't be decoded."""
        index, epoch, _, segment = request
        size = self.spec.size(epoch)
        try:
            image = read_rgb(self.data.samples[index][0])
        except Exception as error:  # PIL's plugins raise anything; the main process reports it
            return torch.zeros(size, size, 3, dtype=torch.uint8), f"{type(error).__name__}: {error}"
        if self.clean[segment]:
            evaluation = _evaluation(size, self.spec.crop_pct, self.spec.interpolation)
            return torch.as_tensor(evaluation(image)).permute(1, 2, 0), ""
        return torch.from_numpy(self._augmented(image, request)), ""

    def _augmented(self, image: Image.Image, request: Request) -> NDArray[np.uint8]:
        _, epoch, position, segment = request
        boxes, flips = training_boxes(
            self.spec, np.array([image.height]), np.array([image.width]), seed=self.seed, epoch=epoch,
            positions=np.array([position]), segments=np.array([segment]),
        )  # fmt: skip
        top, left, height, width = (int(value) for value in boxes[0])
        size, resample = self.spec.size(epoch), Image.Resampling[self.spec.interpolation.upper()]
        # Not `resize(box=...)`, which uses pixels around the box. `crop` is black outside the image.
        image = image.crop((left, top, left + width, top + height)).resize((size, size), resample)
        pixels = np.array(image)
        return np.ascontiguousarray(pixels[:, ::-1]) if flips[0] else pixels
