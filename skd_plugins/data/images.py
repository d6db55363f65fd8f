"""How a request becomes an image, for folders and `.beton` files."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from ..common.errors import SkdError
from .augment import Augmentation, center_boxes, training_boxes
from .beton.file import BetonFile
from .order import Indices
from .policy import changed
from .sources import FolderData, read_rgb

Request = tuple[int, int, int, int]  # sample, epoch, position, segment
Pixels = NDArray[np.uint8]


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """What the loader's workers index: a request gives an image, and the reason if it can't be decoded.

    Args:
        clean: for each segment whether it gets the evaluation transform.
    """

    def __init__(self, data: Any, spec: Augmentation, *, seed: int, clean: tuple[bool, ...]) -> None:
        self.data, self.spec, self.seed, self.clean = data, spec, seed, clean

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, str]:
        _, epoch, position, segment = request
        pixels, reason = self._cropped(request)
        if not reason and not self.clean[segment]:
            pixels = changed(pixels, self.spec, seed=self.seed, epoch=epoch, position=position, segment=segment)
        return torch.from_numpy(pixels), reason

    def _cropped(self, request: Request) -> tuple[Pixels, str]:
        """The image after crop and flips, or any pixels and why it can't be decoded."""
        raise NotImplementedError


class BetonImages(Images):
    """Images of a `.beton` file."""

    data: BetonFile

    def _cropped(self, request: Request) -> tuple[Pixels, str]:
        index, epoch, position, segment = request
        size = self.spec.size(epoch)
        pixels = np.empty((1, size, size, 3), dtype=np.uint8)
        decode = self.decoder(np.array([index]), np.array([position]), np.array([segment]), epoch, pixels)
        return pixels[0], decode(range(1)).get(0, "")

    def decoder(
        self, indices: Indices, positions: Indices, segments: Indices, epoch: int, out: Pixels
    ) -> Callable[[range], dict[int, str]]:
        """Draws the boxes and flips of a batch.

        Args:
            out: ``[n, H, W, 3]``, written by the function that is returned: it decodes some of the rows and says which
                can't be decoded, and why.
        """
        heights, widths = self.data.heights[indices], self.data.widths[indices]
        boxes, flips, turned = training_boxes(
            self.spec, heights, widths, seed=self.seed, epoch=epoch, positions=positions, segments=segments
        )
        clean = np.array(self.clean)[segments]
        boxes[clean] = center_boxes(self.spec, heights[clean], widths[clean])
        flips, turned = flips & ~clean, turned & ~clean

        def decode(rows: range) -> dict[int, str]:
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

    def _cropped(self, request: Request) -> tuple[Pixels, str]:
        index, epoch, position, segment = request
        size = self.spec.size(epoch)
        try:
            image = read_rgb(self.data.samples[index][0])
        except Exception as error:  # PIL's plugins raise anything; the main process reports it
            return np.zeros((size, size, 3), dtype=np.uint8), f"{type(error).__name__}: {error}"
        if self.clean[segment]:
            evaluation = _evaluation(size, self.spec.crop_pct, self.spec.interpolation)
            return np.asarray(evaluation(image)).transpose(1, 2, 0), ""
        boxes, (flip,), (turn,) = training_boxes(
            self.spec, np.array([image.height]), np.array([image.width]), seed=self.seed, epoch=epoch,
            positions=np.array([position]), segments=np.array([segment]),
        )  # fmt: skip
        top, left, height, width = (int(value) for value in boxes[0])
        resample = Image.Resampling[self.spec.interpolation.upper()]
        # Not `resize(box=...)`, which uses pixels around the box. `crop` is black outside the image.
        image = image.crop((left, top, left + width, top + height)).resize((size, size), resample)
        return np.ascontiguousarray(np.array(image)[:: -1 if turn else 1, :: -1 if flip else 1]), ""


@cache
def _evaluation(size: int, crop_pct: float, interpolation: str) -> Callable[[Image.Image], Any]:
    transform: Callable[[Image.Image], Any] = create_transform(
        (3, size, size), use_prefetcher=True, crop_pct=crop_pct, interpolation=interpolation
    )
    return transform
