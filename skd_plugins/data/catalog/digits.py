"""The embedded digits, see `skd_plugins.data.sources.digits`."""

from __future__ import annotations

from ..sources import digits
from .dataset import Dataset

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
    embedded=True,
)
