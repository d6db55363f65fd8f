"""The terms that losses are made of, for your own loop; the methods use the same functions."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.gather import gather_rows


def cs_kd_loss(logits: Tensor, pair_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """CS-KD's term (Yun et al. 2020, Eq. 1): ``T^2 * KL(P(. | x'; T) || P(. | x; T))``, averaged over the batch.

    Add it to the cross-entropy of `logits`; the paper's weight is 1.

    Args:
        logits: of the images x ``[B, C]``.
        pair_logits: of other images x' of the same classes ``[B, C]``; no gradient flows into them. They come from a
            forward pass in train mode, from `PairBatchSampler`'s batches, or from a `ClassBank`.
    """
    return kl_divergence(pair_logits.detach(), logits, temperature)


def sd_dropout_loss(
    features: Tensor,
    classifier: Callable[[Tensor], Tensor],
    drop_rate: float = 0.5,
    temperature: float = 3.0,
    direction: str = "both",
    samples: int = 2,
) -> Tensor:
    """SD-Dropout's term (Lee et al. 2022, Eq. 3): `self_distillation` of dropout samples of the features.

    Add it to the cross-entropy of the logits without dropout; the paper's weight is 1, and 0.1 on ImageNet. More than
    two samples are ours: the mean over all pairs.

    Args:
        features: the pooled features ``[B, D]``.
        classifier: the network's last layer, from ``[n, D]`` to ``[n, C]``.
        drop_rate: the probability to drop; kept features are divided by ``1 - drop_rate``.
    """
    logits = classifier(torch.cat(dropped(features, drop_rate, samples)))
    return between_samples(logits, samples, temperature, direction)


def between_samples(logits: Tensor, samples: int, temperature: float, direction: str = "both") -> Tensor:
    """The mean `self_distillation` over all pairs of samples; `logits` has one after another ``[samples * B, C]``."""
    pairs = combinations(full_precision(logits).chunk(samples), 2)
    return torch.stack([self_distillation(u, v, temperature, direction) for u, v in pairs]).mean()


class ClassBank(nn.Module):
    """The most recent logits of each class, as partners for `cs_kd_loss` without a second pass and without pairs.

    Ours. With several processes, each keeps the logits of all of them. The buffers belong into a checkpoint.
    """

    logits: Tensor
    filled: Tensor

    def __init__(self, num_classes: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(num_classes, num_classes, device=device))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.bool, device=device))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The stored logits ``[B, C]`` of each label ``[B]``; in train mode `logits` are stored for the next steps.

        For a class that was never seen they are the image's own, so its divergence and gradient are 0.
        """
        logits = logits.detach()
        pair_logits = torch.where(self.filled[labels][:, None], self.logits[labels], logits)
        if self.training:
            rows = gather_rows(torch.cat([full_precision(logits), labels[:, None]], dim=1))  # exact below 2^24 classes
            self._store(rows[:, :-1], rows[:, -1].long())
        return pair_logits

    def _store(self, logits: Tensor, labels: Tensor) -> None:
        # The last image of each class wins; with a plain indexed write, the winner on a GPU would be undefined.
        position = torch.arange(len(labels), device=labels.device)
        last = torch.full((len(self.logits),), -1, device=labels.device).scatter_reduce(0, labels, position, "amax")
        seen = last >= 0
        # Out of place: the old values may still be needed by autograd or a compiled graph.
        self.logits.copy_(torch.where(seen[:, None], logits[last.clamp(min=0)].to(self.logits.dtype), self.logits))
        self.filled.logical_or_(seen)


def next_of_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the position of the next one of its class, cyclically, and whether that is a different image."""
    size = len(labels)
    position = torch.arange(size, device=labels.device)
    distance = (position[None, :] - position[:, None] - 1) % size  # to the right, 0 for the direct neighbour
    distance = torch.where(labels[None, :] == labels[:, None], distance, size)
    partner = distance.argmin(dim=1)
    return partner, partner != position


def kl_divergence(target_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(target_logits / T) || softmax(logits / T))`` of logits ``[B, C]``, averaged over the batch.

    It is computed in float32. ``T^2`` keeps the size of the gradients the same at every temperature (Hinton et al.
    2015, section 2).
    """
    return sum_of_divergences([(target_logits, logits)], temperature)


def sum_of_divergences(pairs: Sequence[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    """The sum of `kl_divergence` over pairs of ``(target_logits, logits)``."""

    def log_p(logits: Tensor) -> Tensor:
        return F.log_softmax(full_precision(logits) / temperature, dim=-1)

    terms = [F.kl_div(log_p(z), log_p(target), reduction="batchmean", log_target=True) for target, z in pairs]
    return torch.stack(terms).sum() * temperature**2


def self_distillation(u: Tensor, v: Tensor, temperature: float, direction: str = "both") -> Tensor:
    """``T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]`` of logits ``[B, C]``, Eq. 3 and 6-7 of SD-Dropout.

    `direction` ``forward`` detaches the first argument of each divergence, ``reverse`` the second, ``both`` none.
    """
    fixed_u, fixed_v = u.detach(), v.detach()
    pairs = {"both": [(u, v), (v, u)], "forward": [(fixed_u, v), (fixed_v, u)], "reverse": [(u, fixed_v), (v, fixed_u)]}
    return sum_of_divergences(pairs[direction], temperature)


def tf_kd_loss(logits: Tensor, target: Tensor, temperature: float = 20.0, correct: float = 0.99) -> Tensor:
    """Tf-KD_reg's term (Yuan et al. 2020): ``KL(softmax(q / T) || softmax(logits))``, averaged over the batch.

    q is `correct` for the image's class and ``(1 - correct) / (C - 1)`` for every other one. Take 0.1 of it and 0.9 of
    the cross-entropy.

    Args:
        logits: ``[B, C]``.
        target: class indices ``[B]`` or probabilities ``[B, C]``.
    """
    logits = full_precision(logits)
    classes = logits.shape[1]
    hard = (F.one_hot(target, classes) if target.ndim == 1 else target).to(logits.dtype)
    other = (1 - correct) / (classes - 1)
    return kl_divergence((other + (correct - other) * hard) / temperature, logits, 1.0)


def zipf_ls_loss(logits: Tensor, labels: Tensor, dense_logits: Tensor) -> Tensor:
    """Zipf's LS's term (Liang et al. 2022): ``KL(z || p)`` over the classes other than the image's, batch mean.

    z is `zipf_of_ranks` of the positions' votes. Add 0.1 of it to the cross-entropy; on TinyImageNet and INAT-21 the
    authors add all of it.

    Args:
        logits: ``[B, C]``.
        labels: class indices ``[B]``.
        dense_logits: of each position of the last maps ``[B, positions, C]``; each votes for its best class.
    """
    best = dense_logits.argmax(dim=2)
    ones = torch.ones_like(best, dtype=full_precision(logits).dtype)
    votes = torch.zeros_like(logits, dtype=ones.dtype).scatter_add(1, best, ones)
    log_p = others_log_softmax(logits, labels)
    return F.kl_div(log_p, zipf_of_ranks(votes, labels), reduction="batchmean")


def zipf_of_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """``1 / rank`` of each class by its score ``[B, C]``, normalised without the image's own class, which gets 0.

    The highest score has rank 1. Equal scores share the better rank.
    """
    lowest_first = (-scores).sort(dim=1).values
    zipf = 1 / (1 + torch.searchsorted(lowest_first, -scores)).to(scores.dtype)
    zipf = zipf.scatter(1, labels[:, None], 0.0)
    return zipf / zipf.sum(dim=1, keepdim=True)


def others_log_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-softmax over the classes other than the image's own, which gets 0."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return full_precision(logits).masked_fill(own, -torch.inf).log_softmax(dim=1).masked_fill(own, 0.0)


def mean_entropy(logits: Tensor) -> Tensor:
    """``-sum_k p_k log p_k`` of logits ``[B, C]``, averaged over the batch; `max_entropy` subtracts a part of it."""
    log_p = F.log_softmax(full_precision(logits), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32, for softmax and what follows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def dropped(tensor: Tensor, drop_rate: float, samples: int) -> list[Tensor]:
    """Independent dropout samples of a tensor, kept entries divided by ``1 - drop_rate``."""
    return [F.dropout(tensor, drop_rate, training=True) for _ in range(samples)]
