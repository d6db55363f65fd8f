"""What timm's batches are made of: labels without images, and mixup of all segments alike."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import FastCollateMixup

from skd_plugins.common.errors import SkdError
from skd_plugins.timm_train.pairs import PairedCollateMixup, labels_of


def test_collate_mixup_is_timms_on_each_segment() -> None:
    settings: dict[str, Any] = dict(mixup_alpha=0.5, label_smoothing=0.1, num_classes=3)
    draw = np.random.default_rng(0)
    batch = [(draw.integers(0, 256, (3, 4, 4), dtype=np.uint8), label) for label in (0, 1, 2, 1, 0, 1, 2, 1)]
    parts = []
    for part in (batch[:4], batch[4:]):
        np.random.seed(5)
        parts.append(FastCollateMixup(**settings)(part))
    np.random.seed(5)
    input, target = PairedCollateMixup(FastCollateMixup(**settings), 2)(batch)
    assert torch.equal(input, torch.cat([part[0] for part in parts]))
    assert torch.equal(target, torch.cat([part[1] for part in parts]))


def test_labels_of_timms_data_sets() -> None:
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=[("a", 1), ("b", 0)]))).tolist() == [1, 0]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=["a"], targets=np.array([4])))).tolist() == [4]
    assert labels_of(SimpleNamespace(targets=[2, 3], target_transform=lambda label: label - 2)).tolist() == [0, 1]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(iter_targets=lambda: iter([5, 6])))).tolist() == [5, 6]
    with pytest.raises(SkdError, match="SimpleNamespace does not list one class index a sample"):
        labels_of(SimpleNamespace())
    with pytest.raises(SkdError, match="a stream"):
        labels_of(type("Stream", (torch.utils.data.IterableDataset,), {"__iter__": lambda self: iter([])})())
