"""SD-Dropout: a network teaches itself through two dropout samples of its features."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..losses import between_samples, dropped
from ..networks.features import extra_rows
from ..networks.stages import STAGES, StageTap, check_resumable, resume_after, stage_modules, watching
from .method import AddOn, Criterion, DropRate, Temperature, Weight, register_method


@register_method("sd_dropout")
class SDDropout(AddOn):
    """SD-Dropout (Lee et al. 2022, Eq. 3-5), added to any base method.

    ``loss = base loss + weight * T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]`` with ``p_u``, ``p_v`` the softmax at
    temperature T of the classifier applied to two dropout samples of the pooled features. The base's cross-entropy is
    on the logits without dropout. Dropout is inverted (kept features are divided by ``1 - drop_rate``) and samples the
    anchors only. The classifier is applied to the features and all samples in one call, so a step costs what the
    base's step costs.

    The features are the inputs of the classifier: a ViT's class token, or its mean token, after the last norm; the
    pooled maps of a ConvNeXt or Swin after their norm. Where the network averages several heads, such as a distilled
    DeiT's, each head's input has its own dropout, and a sample's logits are the average; heads that read the same
    features have the same dropout. The networks' stochastic depth acts once, on all samples alike.

    With `position` ``layer1`` to ``layer3`` (Table 12) dropout samples that stage's maps instead, element by
    element, and the rest of the network runs on all samples as one batch. BatchNorm normalises that batch with
    its own statistics; its running statistics stay those of the images. A network with a classifier of two layers
    (Table 13, ``create_model(..., classifier="mlp")``) is sampled before the first of them.

    Source: Eq. 3-4 (alone), Eq. 5 (on another method), Eq. 6-7 (one direction); the authors' code (yechanp/self_kd,
        branch SD_Dropout, models/) for T = 3, ``batchmean`` and inverted scaling, which the paper does not state. The
        paper's beta is the probability to drop; 0.5 and lambda = 1.0 alone are from its appendix A.1.
    Deviation: none in the loss, alone and on cs_kd, byot and label_smoothing. On ddgsd the authors' code compares one
        sample of each view, and its DML_Dropout one sample of each network's features, both put through the first's
        classifier; here, as in Eq. 5 and in its DML_Dropout_V1, both samples are the anchor's. More than two samples
        are ours: the loss is the mean over all pairs of samples. The paper does not state how BatchNorm behaves in
        Table 12. Algorithm 1 shows no temperature; Eq. 4 and the code have it, and we follow these. The authors'
        ImageNet script has weight 1.0, the paper says 0.1; the ImageNet recipes follow the paper.
    Logs: the base's terms and ``sdd``.

    Args:
        base: name of the method it is added to; ``adacos``, ``virtual_softmax``, ``dropout`` and ``kd`` refuse it.
        weight: lambda of Eq. 4: 1.0 alone (appendix A.1), 0.1 on ImageNet (section 4.1.2); on another method the
            authors' code has 0.1. Few features need less: on the embedded typefaces 0.03 was best calibrated with 64,
            0.1 with 128, 0.3 with 512 of them, and 1.0 was underconfident with all (docs/choosing.md).
        direction: ``both`` (Eq. 3), ``forward`` (Eq. 6) or ``reverse`` (Eq. 7), see `self_distillation`.
    """

    refuses: Mapping[str, str] = {"sd_dropout": "base= has to name another method"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        base: str = "ce",
        base_args: dict[str, Any] | None = None,
        weight: Weight = 1.0,
        temperature: Temperature = 3.0,
        drop_rate: DropRate = 0.5,
        direction: Literal["both", "forward", "reverse"] = "both",
        position: Literal["head", "layer1", "layer2", "layer3"] = "head",
        samples: Annotated[int, Field(ge=2)] = 2,
    ) -> None:
        super().__init__(model, criterion, base, base_args)
        self.weight, self.temperature, self.direction = weight, temperature, direction
        self.drop_rate, self.samples = drop_rate, samples
        self._tap: StageTap | None = None
        if position != "head":
            stage = stage_modules(model)[STAGES.index(position)]
            check_resumable(model, stage)
            self._tap = StageTap(model, stage)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        anchors = len(input) // len(self.segments)

        def sampled(features: Tensor) -> list[Tensor]:
            # Slicing is left out where it changes nothing: it would add up the gradients in another order.
            only = features if len(features) == anchors else features[:anchors]
            return dropped(only, self.drop_rate, self.samples)

        out: dict[str, Tensor]
        if self._tap is None:
            with extra_rows(self.model, sampled) as extra:
                out = self.base(input, target)
            logits = extra[0]
        else:
            with watching(self._tap):
                out = self.base(input, target)
            logits = resume_after(self.model, self._tap.name, torch.cat(sampled(self._tap.take())))
        sdd = between_samples(logits, self.samples, self.temperature, self.direction)
        return out | {"loss": out["loss"] + self.weight * sdd, "sdd": sdd.detach()}
