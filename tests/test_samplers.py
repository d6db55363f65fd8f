"""Batch samplers in other people's loaders: torch's, torchdata's with its state, and accelerate's shards."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from skd_plugins import CoupleBatchSampler, PairBatchSampler, SkdError

TARGETS = torch.arange(53) % 7
DATASET = TensorDataset(torch.arange(53), TARGETS)


def test_anchors_and_pairs_in_torchs_loader() -> None:
    loader = DataLoader(DATASET, batch_sampler=PairBatchSampler(TARGETS, 8), num_workers=2)
    anchors, pairs = [], []
    for indices, labels in loader:
        assert torch.equal(labels[:8], labels[8:])
        anchors += indices[:8].tolist()
        pairs += indices[8:].tolist()
    assert len(loader) == 6
    assert len(anchors) == len(set(anchors)) == 48
    assert sum(a != p for a, p in zip(anchors, pairs, strict=True)) > 30, "one of seven or eight is drawn"
    assert [index for indices, _ in loader for index in indices[:8].tolist()] != anchors, "another epoch"


def test_couples_in_torchs_loader() -> None:
    for _, labels in DataLoader(DATASET, batch_sampler=CoupleBatchSampler(TARGETS, 12, seed=3)):
        assert len(labels) == 12
        assert np.bincount(labels)[labels].min() >= 2


@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize(("taken", "workers", "next_one"), [
    (1, 0, 1), (6, 0, 6), (1, 2, 1), (4, 2, 4), (8, 2, 8),
    (6, 2, 12),  # it takes batches ahead, and throws them away because the epoch is over
])  # fmt: skip
def test_resume_in_torchdatas_loader(taken: int, workers: int, next_one: int) -> None:
    """It saves where the sampler stood when the batch was taken, although its workers are ahead."""

    def make() -> StatefulDataLoader:
        return StatefulDataLoader(DATASET, batch_sampler=PairBatchSampler(TARGETS, 8, seed=1), num_workers=workers)

    def batches(loader: StatefulDataLoader) -> Iterator[list[int]]:
        while True:
            yield from (indices.tolist() for indices, _ in loader)

    whole = list(islice(batches(make()), 18))
    loader, resumed = make(), make()
    if taken == 6:
        list(loader)
    else:
        list(islice(batches(loader), taken))
    resumed.load_state_dict(loader.state_dict())
    assert list(islice(batches(resumed), 5)) == whole[next_one : next_one + 5]


def test_resume_by_hand() -> None:
    sampler = PairBatchSampler(TARGETS, 8)
    whole = [list(sampler) for _ in range(3)]
    for step, (epoch, start) in {2: (1, 2), 6: (2, 0)}.items():
        sampler.load_state_dict({"epoch": 1, "step": step})
        sampler.set_epoch(epoch)  # as trainers do; the same epoch changes nothing
        assert list(sampler) == whole[epoch][start:]
        assert sampler.state_dict() == {"epoch": epoch, "step": 6}


def test_processes_share_an_epoch() -> None:
    """With rank and world as with accelerate's shards, each image is an anchor once, and all have as many batches."""
    ours = [list(PairBatchSampler(TARGETS, 4, rank=rank, world=3)) for rank in range(3)]
    accelerates = [list(BatchSamplerShard(PairBatchSampler(TARGETS, 4), 3, rank)) for rank in range(3)]
    for shards in (ours, accelerates):
        assert {len(shard) for shard in shards} == {4}
        anchors = [index for shard in shards for batch in shard for index in batch[:4]]
        assert len(set(anchors)) == len(anchors) == 48
        for shard in shards:
            for batch in shard:
                assert torch.equal(TARGETS[batch[:4]], TARGETS[batch[4:]])


def test_resume_in_accelerates_loader() -> None:
    """On several processes it looks for `set_epoch` at the batch sampler's sampler, as Lightning does."""
    sampler = PairBatchSampler(TARGETS, 4)
    whole = [list(sampler) for _ in range(3)]
    loader = prepare_data_loader(
        DataLoader(DATASET, batch_sampler=PairBatchSampler(TARGETS, 4)), num_processes=2, process_index=1,
        put_on_device=False,
    )  # fmt: skip
    loader.set_epoch(2)
    assert [indices.tolist() for indices, _ in skip_first_batches(loader, 1)] == whole[2][3:12:2]


def test_what_can_not_be_drawn() -> None:
    for targets, size, message in [
        (torch.rand(9), 4, "targets should be one class index a sample, got float32 of shape"),
        (TARGETS, 54, "53 training images are less than one batch of 54 on 1"),
    ]:
        with pytest.raises(SkdError, match=message):
            PairBatchSampler(targets, size)
