"""How the two directions of SD-Dropout's divergence pull at a network (SD-Dropout, section 3.3, Table 8, Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from ...common.errors import SkdError
from ...common.meter import tracked
from ...common.typed import check_value
from ...evaluation.predictions import evaluation_mode
from ...methods.losses import full_precision, self_distillation
from ...methods.method import DropRate
from ...networks.build import classifier_of
from ...networks.features import extra_rows, forward_with_features

Of = Literal["all", "classifier"]


@dataclass(frozen=True)
class KLGradients:
    """The gradients of the forward (Eq. 6) and the reverse (Eq. 7) divergence on one batch, or their mean over several.

    Attributes:
        cosine: cosine of the angle between the two, in [-1, 1]; NaN if one of them is 0.
        l1_forward: L1 norm of the forward one.
        l1_reverse: L1 norm of the reverse one.
    """

    cosine: float
    l1_forward: float
    l1_reverse: float


@dataclass(frozen=True)
class Assumptions:
    """How often the assumptions of Proposition 1 hold, over all pairs of an image and a class.

    Attributes:
        p_assumption_1: the fraction of pairs where the larger of ``p_i, q_i`` has the larger gradient too.
        p_assumption_2: the fraction of pairs with ``r <= r_1``.
        r: mean of ``|log(p_i / q_i)|``.
        r_1: mean of ``|log(rho) + log(log(rho + e - 1))|``, rho the ratio of the larger to the smaller gradient.
        pairs: how many.
    """

    p_assumption_1: float
    p_assumption_2: float
    r: float
    r_1: float
    pairs: int


def kl_gradients(
    model: nn.Module,
    input: Tensor,
    *,
    temperature: float = 3.0,
    drop_rate: float = 0.5,
    seed: int = 0,
    of: Of = "all",
) -> KLGradients:
    """Gradients of both directions of the divergence between two dropout samples, on the same batch and masks.

    Source: SD-Dropout, Lemma 1, section 4.6.1 and Figure 4, which shows the cosine falling during training and the
        L1 norm of the reverse gradient above the other's. Which parameters and batches is unsaid. Here: all trainable
        parameters as one vector; the loss term as it is trained (``T^2`` times the batch mean), without its weight;
        the network in evaluation mode, so that an image's share does not depend on its batch through BatchNorm; two
        masks drawn as in training (inverted dropout).

    Args:
        model: a classifier.
        input: ``[B, C, H, W]``, normalised.
        temperature: T; the authors' 3.
        drop_rate: probability to drop a feature, in (0, 1); the authors' 0.5.
        seed: of the two masks.
        of: all trainable parameters, or those of the classifier only.

    Raises:
        SkdError: no trainable parameters, or a network without one linear classifier.
    """
    with evaluation_mode(model), torch.enable_grad():
        u, v = _dropped_logits(model, input, drop_rate, seed)
        parameters = _parameters(model, of)
        forward, reverse = (
            _flat(torch.autograd.grad(
                self_distillation(u, v, temperature, direction), parameters, retain_graph=True, allow_unused=True
            ))
            for direction in ("forward", "reverse")
        )  # fmt: skip
    lengths = float(forward.norm()) * float(reverse.norm())
    return KLGradients(
        cosine=float(forward @ reverse) / lengths if lengths else math.nan,
        l1_forward=float(forward.abs().sum()),
        l1_reverse=float(reverse.abs().sum()),
    )


def check_assumptions(
    model: nn.Module,
    input: Tensor,
    *,
    temperature: float = 3.0,
    drop_rate: float = 0.5,
    seed: int = 0,
    of: Of = "all",
) -> Assumptions:
    """Assumptions 1 and 2 on every image and class of a batch.

    Source: SD-Dropout, section 3.3 and Table 8 (P(Assumption 1) 0.59 to 0.65, r 0.07 to 0.14, r_1 0.14 to 0.28 on
        CIFAR-100). The paper does not say of which parameters the gradients are, what ``|.|`` of a gradient is, nor
        over what it averages. Here ``|grad p_i|`` is the L1 norm (the norm of Proposition 1) of the gradient of one
        image's probability p_i, at temperature T, by all trainable parameters as one vector. Assumption 2 takes
        ``p_i > q_i`` and ``rho > 1`` without loss of generality, so r and rho are of the larger over the smaller;
        both are averaged over all pairs of image and class, whether Assumption 1 holds for them or not. Masks and mode
        are those of `kl_gradients`. Pairs where a gradient is 0 or a probability underflows have no ratio and are left
        out; pairs that are exactly equal do not fulfil Assumption 1.

    Costs ``2 * B * C`` backward passes of one image: for 100 classes take a few images, or ``of="classifier"``.

    Args:
        model: a classifier.
        input: ``[B, C, H, W]``, normalised.
        temperature: T.
        drop_rate: probability to drop a feature, in (0, 1).
        seed: of the two masks.
        of: all trainable parameters, or those of the classifier only.

    Raises:
        SkdError: as `kl_gradients`, or no pair has a ratio.
    """
    with evaluation_mode(model), torch.enable_grad():
        parameters = _parameters(model, of)
        u, v = _dropped_logits(model, input, drop_rate, seed)
        p, q = ((logits / temperature).softmax(dim=1) for logits in (u, v))
        norms = torch.stack([_norms(probabilities, parameters) for probabilities in (p, q)])
    probabilities = torch.stack([p, q]).detach().double().cpu()
    usable = (norms > 0).all(dim=0) & (probabilities > 0).all(dim=0)
    if not usable.any():
        raise SkdError("no probability of this batch has a gradient; is the network trained and finite?")
    log_ratio = (probabilities[0] / probabilities[1]).log()[usable]
    log_rho = (norms[0] / norms[1]).log()[usable]
    r, s = log_ratio.abs(), log_rho.abs()
    r_1 = (s + (s.exp() + math.e - 1).log().log()).abs()
    return Assumptions(
        p_assumption_1=float((log_ratio * log_rho > 0).double().mean()),
        p_assumption_2=float((r <= r_1).double().mean()),
        r=float(r.mean()),
        r_1=float(r_1.mean()),
        pairs=len(r),
    )


def mean_kl_gradients(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    batches: int | None = None,
    temperature: float = 3.0,
    drop_rate: float = 0.5,
    seed: int = 0,
    of: Of = "all",
) -> KLGradients:
    """The means of `kl_gradients` over a loader's first batches, each batch with masks of its own.

    Args:
        model: a classifier, on the loader's device.
        loader: gives ``(input, target)``; targets are not used.
        batches: how many; all when None. Norms of batch means depend on the batch's size: compare equal ones.
        temperature: T.
        drop_rate: probability to drop a feature.
        seed: of the masks.
        of: all trainable parameters, or those of the classifier only.

    Raises:
        SkdError: the loader is empty, or as `kl_gradients`.
    """
    parts = [
        kl_gradients(model, input, temperature=temperature, drop_rate=drop_rate, seed=seed + number, of=of)
        for number, (input, _) in enumerate(tracked(islice(loader, batches), "gradients", batches))
    ]
    weights = [1.0] * len(parts)
    return KLGradients(
        cosine=_mean([part.cosine for part in parts], weights),
        l1_forward=_mean([part.l1_forward for part in parts], weights),
        l1_reverse=_mean([part.l1_reverse for part in parts], weights),
    )


def mean_assumptions(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    batches: int | None = None,
    temperature: float = 3.0,
    drop_rate: float = 0.5,
    seed: int = 0,
    of: Of = "all",
) -> Assumptions:
    """`check_assumptions` over all pairs of a loader's first batches, each batch with masks of its own.

    Args:
        model: a classifier, on the loader's device.
        loader: gives ``(input, target)``; targets are not used.
        batches: how many; all when None. See `check_assumptions` for what one costs.
        temperature: T.
        drop_rate: probability to drop a feature.
        seed: of the masks.
        of: all trainable parameters, or those of the classifier only.

    Raises:
        SkdError: the loader is empty, or as `check_assumptions`.
    """
    parts = [
        check_assumptions(model, input, temperature=temperature, drop_rate=drop_rate, seed=seed + number, of=of)
        for number, (input, _) in enumerate(tracked(islice(loader, batches), "assumptions", batches))
    ]
    weights = [float(part.pairs) for part in parts]
    return Assumptions(
        p_assumption_1=_mean([part.p_assumption_1 for part in parts], weights),
        p_assumption_2=_mean([part.p_assumption_2 for part in parts], weights),
        r=_mean([part.r for part in parts], weights),
        r_1=_mean([part.r_1 for part in parts], weights),
        pairs=sum(part.pairs for part in parts),
    )


def _dropped_logits(model: nn.Module, input: Tensor, drop_rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Logits ``[B, C]`` of two dropout samples of the features, in float32 or more."""
    drop_rate = check_value(drop_rate, DropRate, what="drop_rate")
    # The CPU's generator, so that every device gets the same masks.
    generator = torch.Generator().manual_seed(seed)

    def two_samples(features: Tensor) -> list[Tensor]:
        kept = torch.rand(2, *features.shape, generator=generator) >= drop_rate
        return [(features * kept.to(features) / (1 - drop_rate)).flatten(0, 1)]

    with extra_rows(model, two_samples) as extra:
        forward_with_features(model, input)
    u, v = full_precision(extra[0]).chunk(2)
    return u, v


def _parameters(model: nn.Module, of: Of) -> list[Tensor]:
    module = classifier_of(model) if of == "classifier" else model
    parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise SkdError(f"{type(model).__name__} has no trainable parameters to analyse the gradients of")
    return parameters


def _norms(probabilities: Tensor, parameters: list[Tensor]) -> Tensor:
    """L1 norms ``[B, C]`` of the gradient of every probability ``[B, C]``, in float64."""
    rows = []
    for probability in probabilities.flatten():
        gradients = torch.autograd.grad(probability, parameters, retain_graph=True, allow_unused=True)
        sums = [g.abs().sum(dtype=torch.float64) for g in gradients if g is not None]
        rows.append(torch.stack(sums).sum())
    return torch.stack(rows).view(probabilities.shape).cpu()


def _flat(gradients: Sequence[Tensor | None]) -> Tensor:
    """One float64 vector; parameters that the divergence does not depend on (a head's bias it may not) count as 0."""
    return torch.cat([gradient.flatten().double() for gradient in gradients if gradient is not None])


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    if not values:
        raise SkdError("gradient analysis: the loader gave no batch")
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)
