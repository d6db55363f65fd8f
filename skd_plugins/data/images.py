"""How a batch's samples become pixels, for folders and `.beton` files."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from ..common.errors import SkdError
from .augment import Augmentation, center_boxes, training_boxes
from .beton.file import BetonFile
from .order import Indices
from .policy import change
from .sources import FolderData, read_rgb

Pixels = NDArray[np.uint8]
Broken = dict[int, str]  # why some rows of a batch can't be decoded


class Request(NamedTuple):
    """What a batch is made of; the arrays are ``[n]``."""

    epoch: int
    indices: Indices  # samples
    positions: Indices
    segments: Indices


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, Broken]]):
    """What the loader's workers index: a request gives uint8 ``[n, H, W, 3]``, and why some rows can't be decoded.

    Args:
        clean: for each segment whether it gets the evaluation transform.
    """

    def __init__(self, data: Any, spec: Augmentation, *, seed: int, clean: tuple[bool, ...]) -> None:
        self.data, self.spec, self.seed, self.clean = data, spec, seed, clean

    def __getitems__(self, request: Request) -> tuple[torch.Tensor, Broken]:  # torch's name for a whole batch
        pixels = self.empty(request)
        broken = self.decoder(request, pixels.numpy())(range(len(pixels)))
        sound = [row for row, segment in enumerate(request.segments) if row not in broken and not self.clean[segment]]
        change(pixels.numpy(), sound, self.spec, self.seed, request.epoch, request.positions, request.segments)
        return pixels, broken

    def one(self, index: int, epoch: int, position: int, segment: int) -> tuple[torch.Tensor, str]:
        """A single image ``[H, W, 3]``, and the reason if it can't be decoded."""
        pixels, broken = self.__getitems__(Request(epoch, *(np.array([x]) for x in (index, position, segment))))
        return pixels[0], broken.get(0, "")

    def empty(self, request: Request, pin: bool = False) -> torch.Tensor:
        """Memory for a batch."""
        size = self.spec.size(request.epoch)
        return torch.empty(len(request.indices), size, size, 3, dtype=torch.uint8, pin_memory=pin)

    def decoder(self, request: Request, out: Pixels) -> Callable[[range], Broken]:
        """Draws the boxes and flips of a batch.

        Args:
            out: ``[n, H, W, 3]``, written by the function that is returned: it decodes some of the rows, crops and
                flips them, and says which can't be decoded, and why.
        """
        raise NotImplementedError


class BetonImages(Images):
    """Images of a `.beton` file."""

    data: BetonFile

    def decoder(self, request: Request, out: Pixels) -> Callable[[range], Broken]:
        """As in `Images`."""
        epoch, indices, positions, segments = request
        heights, widths = self.data.heights[indices], self.data.widths[indices]
        boxes, flips, turned = training_boxes(
            self.spec, heights, widths, seed=self.seed, epoch=epoch, positions=positions, segments=segments
        )
        clean = np.array(self.clean)[segments]
        boxes[clean] = center_boxes(self.spec, heights[clean], widths[clean])
        flips, turned = flips & ~clean, turned & ~clean

        def decode(rows: range) -> Broken:
            broken = {}
            for row in rows:
                if reason := self.data.crop(int(indices[row]), boxes[row], bool(flips[row]), out[row]):
                    broken[row] = reason
                elif turned[row]:
                    out[row] = out[row, ::-1].copy()
            return broken

        return decode


class FolderImages(Images):
    """Images of a folder, read by PIL."""

    data: FolderData

    def __init__(self, data: FolderData, spec: Augmentation, *, seed: int, clean: tuple[bool, ...]) -> None:
        if spec.interpolation == "random":
            raise SkdError(f"interpolation=random is for .beton files, and {data.path} is a folder; choose one")
        super().__init__(data, spec, seed=seed, clean=clean)

    def decoder(self, request: Request, out: Pixels) -> Callable[[range], Broken]:
        """As in `Images`."""
        epoch, indices, positions, segments = request
        size, resample = self.spec.size(epoch), Image.Resampling[self.spec.interpolation.upper()]

        def decode(rows: range) -> Broken:
            broken = {}
            for row in rows:
                try:
                    image = read_rgb(self.data.samples[indices[row]][0])
                except Exception as error:  # PIL's plugins raise anything; the main process reports it
                    broken[row] = f"{type(error).__name__}: {error}"
                    continue
                if self.clean[segments[row]]:
                    evaluation = _evaluation(size, self.spec.crop_pct, self.spec.interpolation)
                    out[row] = np.asarray(evaluation(image)).transpose(1, 2, 0)
                    continue
                boxes, (flip,), (turn,) = training_boxes(
                    self.spec, np.array([image.height]), np.array([image.width]), seed=self.seed, epoch=epoch,
                    positions=positions[row : row + 1], segments=segments[row : row + 1],
                )  # fmt: skip
                top, left, height, width = (int(value) for value in boxes[0])
                # Not `resize(box=...)`, which uses pixels around the box. `crop` is black outside the image.
                image = image.crop((left, top, left + width, top + height)).resize((size, size), resample)
                out[row] = np.asarray(image)[:: -1 if turn else 1, :: -1 if flip else 1]
            return broken

        return decode


@cache
def _evaluation(size: int, crop_pct: float, interpolation: str) -> Callable[[Image.Image], Any]:
    transform: Callable[[Image.Image], Any] = create_transform(
        (3, size, size), use_prefetcher=True, crop_pct=crop_pct, interpolation=interpolation
    )
    return transform
