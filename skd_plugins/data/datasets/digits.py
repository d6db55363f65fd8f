"""The embedded digits."""

import numpy as np
from PIL import Image as PIL

from ..sources import Source
from .dataset import Dataset


def digits(train: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits, 32 x 32 pixels: 100 a class to train, the other 797 to validate.

    They are real data that need no download: scikit-learn contains the test set of UCI's Optical Recognition of
    Handwritten Digits (8 x 8 pixels, 17 grey levels).
    """
    from sklearn.datasets import load_digits  # slow to import

    data = load_digits()
    shuffled = np.random.default_rng(0).permutation(len(data.target))
    training = np.concatenate([shuffled[data.target[shuffled] == label][:100] for label in range(10)])
    chosen = np.sort(training if train else np.setdiff1d(shuffled, training))
    grey = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    images = [
        np.asarray(PIL.fromarray(image).resize((32, 32), PIL.Resampling.BICUBIC).convert("RGB")) for image in grey
    ]
    half = "training" if train else "validation"
    return Source(
        description=f"scikit-learn digits, {half} half",
        classes=[str(label) for label in range(10)],
        targets=np.asarray(data.target[chosen], dtype=np.int64),
        load=lambda index: images[index],
        name_of=lambda index: f"image {index} of the digits' {half} half",
    )


DATASET = Dataset(
    name="digits",
    title="scikit-learn's digits (UCI Optical Recognition of Handwritten Digits, test set)",
    classes=10,
    train=1000,
    val=797,
    homepage="https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0",
    layout="nothing: it comes with scikit-learn",
    read=lambda root, train, part: digits(train),
    exact=True,
)
