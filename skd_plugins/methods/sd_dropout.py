"""SD-Dropout: a network teaches itself through two dropout samples of its features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from ..networks.stages import STAGES, StageTap, check_resumable, resume_after, stage_modules, watching
from .losses import dropped, full_precision, kl_divergence
from .method import Method, at_least, create_base, rate_of_dropout, register_method


@register_method("sd_dropout")
class SDDropout(Method):
    """SD-Dropout (Lee et al. 2022, Eq. 3-5), added to any base method.

    ``loss = base loss + weight * T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]`` with ``p_u``, ``p_v`` the softmax at
    temperature T of the classifier applied to two dropout samples of the pooled features. The base's cross-entropy is
    on the logits without dropout. Dropout is inverted (kept features are divided by ``1 - drop_rate``) and samples the
    anchors only. The classifier is applied to the features and all samples in one call, so a step costs what the
    base's step costs.

    With `position` ``layer1`` to ``layer3`` (Table 12) the samples are of that stage's maps instead, dropped element by
    element, and the rest of the network runs on them, all samples as one batch. BatchNorm normalises that batch with
    its own statistics and does not count it in its running ones, which stay those of the images. A network with a
    classifier of two layers (Table 13, ``create_model(..., classifier="mlp")``) is sampled before the first of them.

    Source: Eq. 3-4 (alone), Eq. 5 (on another method), Eq. 6-7 (one direction); the authors' code (yechanp/self_kd,
        branch SD_Dropout, models/) for T = 3, ``batchmean`` and inverted scaling, which the paper leaves unsaid. The
        paper's beta is the probability to drop; 0.5 and lambda = 1.0 alone are of its appendix A.1.
    Deviation: none in the loss, alone and on cs_kd, byot and label_smoothing. On ddgsd the authors' code compares one
        sample of each view, and its DML_Dropout one sample of each network's features, both put through the first's
        classifier; here, as in Eq. 5 and in its DML_Dropout_V1, both samples are the anchor's. More than two samples
        are ours: the loss is the mean over all pairs of samples. BatchNorm in Table 12 is unsaid.
        Algorithm 1 shows no temperature; Eq. 4 and the code have it, and we follow these. The authors' ImageNet script
        has weight 1.0, the paper says 0.1; the ImageNet recipes follow the paper.

    Args:
        model: see `Method`.
        criterion: see `Method`.
        base: name of the method it is added to; ``adacos``, ``virtual_softmax``, ``dropout`` and ``kd`` refuse it.
        base_args: arguments of that method.
        weight: lambda of Eq. 4: 1.0 alone (appendix A.1), 0.1 on ImageNet (section 4.1.2); on another method the
            authors' code has 0.1.
        temperature: T.
        drop_rate: probability to drop a feature, in (0, 1).
        direction: ``both`` (Eq. 3), ``forward`` (Eq. 6: the divergence's first argument is detached) or ``reverse``
            (Eq. 7: the second is).
        position: where dropout is: ``head``, or after a stage (see `stage_modules`).
        samples: dropout samples of each image, at least 2.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        base: str = "ce",
        base_args: dict[str, Any] | None = None,
        weight: float = 1.0,
        temperature: float = 3.0,
        drop_rate: float = 0.5,
        direction: Literal["both", "forward", "reverse"] = "both",
        position: Literal["head", "layer1", "layer2", "layer3"] = "head",
        samples: int = 2,
    ) -> None:
        super().__init__(model, criterion)
        if base == self.name:
            raise SkdError("sd_dropout can't be added to itself; base= names another method")
        self.base = create_base(self.name, base, model, criterion, base_args)
        self.segments, self.couples = self.base.segments, self.base.couples
        self.passes, self.refuses = self.base.passes, {**self.base.refuses, "sd_dropout": "it is sd_dropout already"}
        self.weight = at_least(weight, 0, "sd_dropout: weight")
        self.temperature = at_least(temperature, 0, "sd_dropout: temperature", strict=True)
        self.drop_rate = rate_of_dropout(drop_rate, "sd_dropout")
        self.direction = direction
        self.samples = int(at_least(samples, 2, "sd_dropout: samples"))
        self._tap: StageTap | None = None
        if position != "head":
            stage = stage_modules(model)[STAGES.index(position)]
            check_resumable(model, stage)
            self._tap = StageTap(model, stage)

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``sdd`` to the base's terms."""
        if self._tap is None:
            out: dict[str, Tensor] = self.base(input, target, expand=self._with_samples)
            samples = out.pop("extra")
        else:
            with watching(self._tap):
                out = self.base(input, target)
            maps = self._tap.take()[: len(out["output"])]
            samples = torch.cat(dropped(maps, self.drop_rate, self.samples))
            samples = full_precision(resume_after(self.model, self._tap.name, samples))
        pairs = list(combinations(samples.chunk(self.samples), 2))
        terms = [self_distillation(u, v, self.temperature, self.direction) for u, v in pairs]
        sdd = terms[0] if len(terms) == 1 else torch.stack(terms).mean()
        return out | {"loss": out["loss"] + self.weight * sdd, "sdd": sdd.detach()}

    def _with_samples(self, features: Tensor) -> Tensor:
        return torch.cat([features, *dropped(features, self.drop_rate, self.samples)])


def self_distillation(u: Tensor, v: Tensor, temperature: float, direction: str = "both") -> Tensor:
    """``T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]``, Eq. 3 and 6-7 of SD-Dropout.

    Args:
        u: logits ``[B, C]`` of the first dropout sample.
        v: logits ``[B, C]`` of the second.
        temperature: T.
        direction: see `SDDropout`.
    """
    if direction == "both":
        total = kl_divergence(u, v, temperature) + kl_divergence(v, u, temperature)
    elif direction == "forward":
        total = kl_divergence(u.detach(), v, temperature) + kl_divergence(v.detach(), u, temperature)
    else:
        total = kl_divergence(u, v.detach(), temperature) + kl_divergence(v, u.detach(), temperature)
    return total * temperature**2
