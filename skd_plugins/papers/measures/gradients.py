"""How the two directions of SD-Dropout's divergence pull at a network (SD-Dropout, section 3.3, Table 8, Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...common.errors import SkdError
from ...common.meter import tracked
from ...evaluation.predictions import evaluation_mode
from ...methods.losses import full_precision, self_distillation
from ...networks.build import classifier_of
from ...networks.features import extra_rows, forward_with_features

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class DropoutPair:
    """Two dropout samples of a network, and the parameters that their gradients are taken of.

    Args:
        drop_rate: probability to drop a feature, in (0, 1).
        seed: of the two masks.
        of: all trainable parameters, or those of the classifier only.
    """

    temperature: float = 3.0
    drop_rate: float = 0.5
    seed: int = 0
    of: Literal["all", "classifier"] = "all"

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The trainable parameters of the network or of its classifier."""
        module = classifier_of(model) if self.of == "classifier" else model
        parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            raise SkdError(f"{type(model).__name__} has no trainable parameters, so there are no gradients to analyse")
        return parameters

    def logits(self, model: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C]`` of both samples, in float32 or more."""
        if not 0 < self.drop_rate < 1:
            raise SkdError(f"drop_rate must be between 0 and 1, got {self.drop_rate:g}")
        generator = torch.Generator().manual_seed(self.seed)  # the CPU's: every device gets the same masks

        def two_samples(features: Tensor) -> list[Tensor]:
            kept = torch.rand(2, *features.shape, generator=generator) >= self.drop_rate
            return [(features * kept.to(features) / (1 - self.drop_rate)).flatten(0, 1)]

        with extra_rows(model, two_samples) as extra:
            forward_with_features(model, input)
        u, v = full_precision(extra[0]).chunk(2)
        return u, v


_PAPERS = DropoutPair()  # the authors' temperature and drop rate


@dataclass(frozen=True)
class KLGradients:
    """Gradients of the forward (Eq. 6) and the reverse (Eq. 7) divergence on one batch, or their mean over several.

    Attributes:
        cosine: cosine of the angle between the two, in [-1, 1]; NaN if one of them is 0.
        l1_forward: L1 norm of the forward gradient.
        l1_reverse: L1 norm of the reverse gradient.
    """

    cosine: float
    l1_forward: float
    l1_reverse: float


@dataclass(frozen=True)
class Assumptions:
    """How often the assumptions of Proposition 1 hold, over all pairs of an image and a class.

    Attributes:
        p_assumption_1: fraction of the pairs where the larger of ``p_i, q_i`` also has the larger gradient.
        p_assumption_2: fraction of the pairs with ``r <= r_1``.
        r: mean of ``|log(p_i / q_i)|``.
        r_1: mean of ``|log(rho) + log(log(rho + e - 1))|``, rho the ratio of the larger to the smaller gradient.
        pairs: number of pairs.
    """

    p_assumption_1: float
    p_assumption_2: float
    r: float
    r_1: float
    pairs: int


def kl_gradients(model: nn.Module, input: Tensor, pair: DropoutPair = _PAPERS) -> KLGradients:
    """Gradients of both directions of the divergence between two dropout samples, on the same batch and masks.

    Source: SD-Dropout, Lemma 1, section 4.6.1 and Figure 4: the cosine falls during training, and the L1 norm of the
        reverse gradient is the larger one. The paper does not say which parameters and batches it took. Here: all
        trainable parameters as one vector; the loss term as it is trained (``T^2`` times the batch mean), without its
        weight; the network in evaluation mode, so that BatchNorm does not mix the images of a batch; two masks drawn
        as in training (inverted dropout).

    Args:
        input: ``[B, C, H, W]``, normalised.
    """
    with evaluation_mode(model), torch.enable_grad():
        u, v = pair.logits(model, input)
        parameters = pair.parameters(model)
        vectors = []
        for direction in ("forward", "reverse"):
            loss = self_distillation(u, v, pair.temperature, direction)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            # Parameters that the divergence does not depend on have no gradient and count as 0.
            vectors.append(torch.cat([gradient.flatten().double() for gradient in gradients if gradient is not None]))
    forward, reverse = vectors
    lengths = float(forward.norm()) * float(reverse.norm())
    return KLGradients(
        cosine=float(forward @ reverse) / lengths if lengths else math.nan,
        l1_forward=float(forward.abs().sum()),
        l1_reverse=float(reverse.abs().sum()),
    )


def check_assumptions(model: nn.Module, input: Tensor, pair: DropoutPair = _PAPERS) -> Assumptions:
    """Assumptions 1 and 2 on every image and class of a batch.

    Source: SD-Dropout, section 3.3 and Table 8 (P(Assumption 1) 0.59 to 0.65, r 0.07 to 0.14, r_1 0.14 to 0.28 on
        CIFAR-100). The paper does not say of which parameters the gradients are, what ``|.|`` of a gradient is, nor
        over what it averages. Here ``|grad p_i|`` is the L1 norm (the norm of Proposition 1) of the gradient of one
        image's probability p_i, at temperature T, by all parameters as one vector. Assumption 2 takes ``p_i > q_i``
        and ``rho > 1`` without loss of generality, so r and rho are of the larger over the smaller; both are averaged
        over all pairs of image and class, whether Assumption 1 holds for them or not. Masks and mode are those of
        `kl_gradients`. Pairs where a gradient is 0 or a probability underflows have no ratio and are left out; pairs
        that are exactly equal do not fulfil Assumption 1.

    It costs ``2 * B * C`` backward passes of one image: for 100 classes take a few images, or ``of="classifier"``.

    Args:
        input: ``[B, C, H, W]``, normalised.
    """
    with evaluation_mode(model), torch.enable_grad():
        parameters = pair.parameters(model)
        p, q = ((logits / pair.temperature).softmax(dim=1) for logits in pair.logits(model, input))
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
    model: nn.Module, loader: Batches, pair: DropoutPair = _PAPERS, *, batches: int | None = None
) -> KLGradients:
    """The mean of `kl_gradients` over a loader's first batches, each with its own masks.

    The norm of a batch's mean gradient depends on the batch size: compare equal ones.
    """
    parts = _each(kl_gradients, model, loader, pair, batches)
    return KLGradients(**_means(parts, [1.0] * len(parts)))


def mean_assumptions(
    model: nn.Module, loader: Batches, pair: DropoutPair = _PAPERS, *, batches: int | None = None
) -> Assumptions:
    """`check_assumptions` over all pairs of a loader's first batches, each with its own masks."""
    parts = _each(check_assumptions, model, loader, pair, batches)
    return Assumptions(**_means(parts, [part.pairs for part in parts]), pairs=sum(part.pairs for part in parts))


Part = TypeVar("Part", KLGradients, Assumptions)


def _each(
    measure: Callable[[nn.Module, Tensor, DropoutPair], Part],
    model: nn.Module,
    loader: Batches,
    pair: DropoutPair,
    batches: int | None,
) -> list[Part]:
    inputs = enumerate(tracked(islice(loader, batches), "gradients", batches))
    parts = [measure(model, input, replace(pair, seed=pair.seed + number)) for number, (input, _) in inputs]
    if not parts:
        raise SkdError("gradient analysis: the loader gave no batch")
    return parts


def _means(parts: Sequence[KLGradients | Assumptions], weights: Sequence[float]) -> dict[str, float]:
    return {
        field.name: math.fsum(getattr(part, field.name) * weight for part, weight in zip(parts, weights, strict=True))
        / math.fsum(weights)
        for field in fields(parts[0])
        if field.name != "pairs"
    }


def _norms(probabilities: Tensor, parameters: list[Tensor]) -> Tensor:
    """L1 norms ``[B, C]`` of the gradient of every probability ``[B, C]``, in float64."""
    rows = []
    for probability in probabilities.flatten():
        gradients = torch.autograd.grad(probability, parameters, retain_graph=True, allow_unused=True)
        sums = [g.abs().sum(dtype=torch.float64) for g in gradients if g is not None]
        rows.append(torch.stack(sums).sum())
    return torch.stack(rows).view(probabilities.shape).cpu()
