"""Street View House Numbers (Netzer et al. 2011) as an out-of-distribution set: the cropped digits' test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset


def read(root: Path, train: bool, part: str) -> Source:
    """Reads the test set with torchvision, which verifies it; labels are the digits."""
    from torchvision.datasets import SVHN  # imports torch; listing the data sets does not need it

    try:
        data = SVHN(str(root), split="test")
    except (OSError, RuntimeError) as error:
        raise SkdError(f"{root / 'test_32x32.mat'} is missing or damaged: {error}") from None
    return Source(
        description="SVHN test set",
        classes=[str(digit) for digit in range(10)],
        targets=np.asarray(data.labels, dtype=np.int64),
        load=lambda index: np.ascontiguousarray(data.data[index].transpose(1, 2, 0)),
        name_of=lambda index: f"image {index} of {root / 'test_32x32.mat'}",
    )


DATASET = Dataset(
    name="svhn",
    title="Street View House Numbers, cropped digits",
    classes=10,
    val=26_032,
    homepage="http://ufldl.stanford.edu/housenumbers/",
    licence="non-commercial",
    layout="test_32x32.mat",
    read=read,
    archives=(
        Archive(
            url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            contents="test_32x32.mat",
            md5="eb5a983be6a315427106f1b164d9cef3",
            free=True,
        ),
    ),
    exact=True,
)
