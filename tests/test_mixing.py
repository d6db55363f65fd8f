"""Mixup and cutmix of several segments at once."""

from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from torch import Tensor

from skd_plugins.data.mixup import mix_segments

CLASSES = 7


def batch(size: int, segments: int) -> tuple[Tensor, Tensor]:
    """Images whose every pixel tells the segment, the image and the place."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(segments * size, 3, 12, 10, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator).repeat(segments)
    return images.to(memory_format=torch.channels_last), labels


def mixer(kind: str, **options: Any) -> Mixup:
    alphas = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "both": (0.8, 1.0)}[kind]
    return Mixup(*alphas, num_classes=CLASSES, label_smoothing=0.1, **options)


def coefficients(before: Tensor, after: Tensor) -> Tensor:
    """Solves after = c * before + (1 - c) * partner for each pixel's c, where image i's partner is n - 1 - i."""
    partner = before.flip(0)
    return ((after - partner) / (before - partner)).double()


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
def test_segments_are_mixed_alike(kind: str, mode: str, segments: int, size: int) -> None:
    mixed_at_all = set()
    for seed in range(6):
        input, target = batch(size, segments)
        before = input.clone()
        np.random.seed(seed)
        output, soft = mix_segments(mixer(kind, mode=mode), input, target, segments)
        assert output is input  # in place, as timm does it
        assert output.shape == before.shape
        assert soft.shape == (segments * size, CLASSES)
        torch.testing.assert_close(soft.sum(1), torch.ones(segments * size))
        parts = [coefficients(b, a) for b, a in zip(before.chunk(segments), output.chunk(segments), strict=True)]
        for part, label in zip(parts, soft.chunk(segments), strict=True):
            torch.testing.assert_close(part, parts[0], atol=1e-3, rtol=1e-3)  # the same coefficients, or the same box
            torch.testing.assert_close(label, soft[:size])
        # the coefficient of the labels is the mean one of the pixels
        share = parts[0].mean(dim=(1, 2, 3)).float()
        hard = torch.nn.functional.one_hot(target[:size], CLASSES).float() * 0.9 + 0.1 / CLASSES
        expected = share[:, None] * hard + (1 - share[:, None]) * hard.flip(0)
        torch.testing.assert_close(soft[:size], expected, atol=2e-3, rtol=2e-3)
        mixed_at_all |= {round(value, 3) for value in share.tolist()}
        if kind == "cutmix":
            assert all(round(value, 2) in (0, 1) for value in parts[0].unique().tolist())
    assert len(mixed_at_all) > 3  # or it would have tested nothing


def test_one_segment_is_plain_timm() -> None:
    """And the generator moves on as for one segment, however many there are, so the next step gets other numbers."""
    for seed in range(5):
        theirs, labels = batch(6, 1)
        np.random.seed(seed)
        expected = mixer("both")(theirs, labels)[1]
        after = np.random.random(4).tolist()
        for segments in (1, 2, 3):
            np.random.seed(seed)
            ours, soft = mix_segments(mixer("both"), *batch(6, segments), segments)
            assert np.random.random(4).tolist() == after
            assert segments > 1 or (torch.equal(ours, theirs) and torch.equal(soft, expected))


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_last_of_an_odd_batch_stays(size: int, segments: int) -> None:
    """timm refuses odd batches; an epoch's last one may be odd."""
    input, target = batch(size, segments)
    before = input.clone()
    np.random.seed(3)
    output, soft = mix_segments(mixer("mixup"), input, target, segments)
    assert soft.shape == (segments * size, CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(segments * size))
    for first, was, label in zip(output.chunk(segments), before.chunk(segments), soft.chunk(segments), strict=True):
        assert torch.equal(first[-1], was[-1])
        hard = torch.nn.functional.one_hot(target[size - 1], CLASSES) * 0.9 + 0.1 / CLASSES
        torch.testing.assert_close(label[-1], hard)
        if size > 1:
            share = coefficients(was[:-1], first[:-1])
            assert share.std() < 1e-3
            assert 0.02 < share.mean() < 0.98
    if segments == 2:
        torch.testing.assert_close(soft[:size], soft[size:])
