"""What timm's batches are made of: whole batches, labels without images, and mixup of all segments alike."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import FastCollateMixup

from skd_plugins.common.errors import SkdError
from skd_plugins.data.order import Division
from skd_plugins.data.samplers import whole_batches
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


def test_whole_batches_only() -> None:
    targets = np.arange(100) % 10
    for world in (1, 2):
        orders = [
            whole_batches(targets, batch_size=33 // world, division=Division(world=world, rank=rank))
            for rank in range(world)
        ]
        steps = {order.steps for order in orders}
        assert steps == {3}
        seen = [batch.indices for order in orders for batch in order.batches(0)]
        assert {len(indices) for indices in seen} == {33 // world}
        assert len(set(np.concatenate(seen))) == 3 * world * (33 // world)
    couples = whole_batches(targets, batch_size=8, division=Division(), couples=True)
    for epoch in range(5):
        for batch in couples.batches(epoch):
            assert np.bincount(targets[batch.indices])[targets[batch.indices]].min() >= 2
    with pytest.raises(SkdError, match="100 training images are less than one batch of 51 on 2"):
        whole_batches(targets, batch_size=51, division=Division(world=2))


def test_labels_of_timms_data_sets() -> None:
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=[("a", 1), ("b", 0)]))).tolist() == [1, 0]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(samples=["a"], targets=np.array([4])))).tolist() == [4]
    assert labels_of(SimpleNamespace(targets=[2, 3], target_transform=lambda label: label - 2)).tolist() == [0, 1]
    assert labels_of(SimpleNamespace(reader=SimpleNamespace(iter_targets=lambda: iter([5, 6])))).tolist() == [5, 6]
    with pytest.raises(SkdError, match="SimpleNamespace does not list one class index a sample"):
        labels_of(SimpleNamespace())
    with pytest.raises(SkdError, match="a stream"):
        labels_of(type("Stream", (torch.utils.data.IterableDataset,), {"__iter__": lambda self: iter([])})())
