"""How the two directions of SD-Dropout's divergence pull at a network (SD-Dropout, section 3.3, Table 8, Figure 4)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from ...common.errors import SkdError
from ...common.meter import tracked
from ...evaluation.predictions import evaluation_mode
from ...losses import full_precision, self_distillation
from ...networks.create import classifier_of
from ...networks.features import extra_rows, forward_with_features


@dataclass(frozen=True, kw_only=True)
class DropoutPair:
    """Two dropout samples of a network, and the parameters with respect to which gradients are taken."""

    temperature: float = 3.0
    drop_rate: float = 0.5
    seed: int = 0  # of the two masks
    of: Literal["all", "classifier"] = "all"  # all trainable parameters, or those of the classifier only

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The trainable parameters of the network or of its classifier."""
        module = classifier_of(model) if self.of == "classifier" else model
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def logits(self, model: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C]`` of both samples, in float32 or more."""
        generator = torch.Generator().manual_seed(self.seed)  # the CPU's: every device gets the same masks

        def two_samples(features: Tensor) -> list[Tensor]:
            kept = torch.rand(2, *features.shape, generator=generator) >= self.drop_rate
            return [(features * kept.to(features) / (1 - self.drop_rate)).flatten(0, 1)]

        with extra_rows(model, two_samples) as extra:
            forward_with_features(model, input)
        u, v = full_precision(extra[0]).chunk(2)
        return u, v


_PAPERS = DropoutPair()  # the authors' temperature and drop rate


def kl_gradients(model: nn.Module, input: Tensor, pair: DropoutPair = _PAPERS) -> dict[str, float]:
    """Gradients of both directions of the divergence between two dropout samples, on the same batch and masks.

    Source: SD-Dropout, Lemma 1, section 4.6.1 and Figure 4: the cosine falls during training, and the L1 norm of the
        reverse gradient is the larger one. The paper does not say which parameters and batches it took. Here: all
        trainable parameters as one vector; the loss term as it is trained (``T^2`` times the batch mean), without its
        weight; the network in evaluation mode, so that BatchNorm does not mix the images of a batch; two masks drawn
        as in training (inverted dropout).

    Returns:
        ``cosine`` of the angle between the two gradients, NaN if one of them is 0, and the L1 norms ``l1_forward``
        (Eq. 6) and ``l1_reverse`` (Eq. 7).
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
    return {
        "cosine": float(forward @ reverse) / lengths if lengths else math.nan,
        "l1_forward": float(forward.abs().sum()),
        "l1_reverse": float(reverse.abs().sum()),
    }


def check_assumptions(model: nn.Module, input: Tensor, pair: DropoutPair = _PAPERS) -> dict[str, float]:
    """How often Assumptions 1 and 2 of Proposition 1 hold, over all pairs of an image and a class of a batch.

    It costs ``2 * B * C`` backward passes of one image: for 100 classes take a few images, or ``of="classifier"``.

    Source: SD-Dropout, section 3.3 and Table 8 (P(Assumption 1) 0.59 to 0.65, r 0.07 to 0.14, r_1 0.14 to 0.28 on
        CIFAR-100). The paper does not say which parameters it differentiates by, what ``|.|`` of a gradient means, or
        what it averages over. Here ``|grad p_i|`` is the L1 norm (the norm of Proposition 1) of the gradient of one
        image's probability p_i, at temperature T, by all parameters as one vector. Assumption 2 takes ``p_i > q_i``
        and ``rho > 1`` without loss of generality, so r and rho are ratios of the larger to the smaller; both are
        averaged over all pairs of image and class, whether or not Assumption 1 holds for them. Masks and mode are those
        of `kl_gradients`. Pairs where a gradient is 0 or a probability underflows have no ratio and are left out; pairs
        that are exactly equal do not fulfil Assumption 1.

    Returns:
        ``p_assumption_1``, the fraction of the pairs where the larger of ``p_i, q_i`` also has the larger gradient;
        ``p_assumption_2``, the fraction with ``r <= r_1``; the means of ``r = |log(p_i / q_i)|`` and of
        ``r_1 = |log(rho) + log(log(rho + e - 1))|``, rho the ratio of the gradients; and the number of ``pairs``.
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
    return {
        "p_assumption_1": float((log_ratio * log_rho > 0).double().mean()),
        "p_assumption_2": float((r <= r_1).double().mean()),
        "r": float(r.mean()),
        "r_1": float(r_1.mean()),
        "pairs": len(r),
    }


def _norms(probabilities: Tensor, parameters: list[Tensor]) -> Tensor:
    """L1 norms ``[B, C]`` of the gradient of every probability ``[B, C]``, in float64."""
    rows = []
    for probability in probabilities.flatten():
        gradients = torch.autograd.grad(probability, parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.stack([g.abs().sum(dtype=torch.float64) for g in gradients if g is not None]).sum())
    return torch.stack(rows).view(probabilities.shape).cpu()


def mean_over(
    measure: Callable[[nn.Module, Tensor, DropoutPair], dict[str, float]],
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    pair: DropoutPair = _PAPERS,
    batches: int | None = None,
) -> dict[str, float]:
    """The mean of a measure over a loader's first batches, each with its own masks.

    The assumptions are averaged over all pairs, the gradients over the batches. The norm of a batch's mean gradient
    depends on the batch size, so compare equal ones.
    """
    inputs = enumerate(tracked(islice(loader, batches), "gradients", batches))
    parts = [measure(model, input, replace(pair, seed=pair.seed + number)) for number, (input, _) in inputs]
    weights = [part.get("pairs", 1) for part in parts]
    means = {
        key: math.fsum(part[key] * weight for part, weight in zip(parts, weights, strict=True)) / math.fsum(weights)
        for key in parts[0]
    }
    return means | ({"pairs": sum(weights)} if "pairs" in means else {})
