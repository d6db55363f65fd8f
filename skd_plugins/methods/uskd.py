"""USKD: a soft label for the image's class, and others ranked by the network and by one of its earlier stages."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import full_precision, others_log_softmax, zipf_of_ranks
from ..networks.create import num_classes_of
from ..networks.stages import StageTap, stage_modules, stage_shapes, watching
from .method import NEEDS_INDICES, NEEDS_SOFTMAX, Criterion, Method, Weight, register_method


@register_method("uskd")
class USKD(Method):
    """USKD (Yang et al. 2023): universal self-knowledge distillation with customised soft labels.

    ``loss = CE - target_weight * s * log p_y + others_weight * H(z, p_others) + weak_weight * CE_weak``

    * ``s = p_y^2 + 1 - mean(p_y^2)``, detached, is the image's class's soft label; the mean is over the batch.
    * ``p_others`` is the softmax over the other classes. z gives each of them ``1 / rank``, normalised (Zipf's law).
    * The rank is by the sum of the network's own and of a weak prediction, see Deviation. The weak one is a linear
      layer's, of the third stage's pooled maps. It exists only in training, and learns by ``CE_weak``, the
      cross-entropy with label smoothing 0.1.

    Source: Yang et al. 2023; the authors' code (yzd-v/cls_KD, mmcls/models/dis_losses/uskd.py: USKDLoss). The weights
        are those of its ImageNet configurations; on CIFAR-100 it has 0.1 for all three.
    Deviation: none from that code. The rank there is of ``w / (1 - w_y) + log p / (1 - log p_y)`` with the weak
        probabilities w: a variable has been overwritten by log p, where the formula seems to mean p. We keep it, since
        the published numbers come from it. For vision transformers, that code takes the class token as the weak
        features; here the network needs stages.
    Logs: ``ce``, ``target``, ``others`` and ``weak``, all unweighted.

    Args:
        model: has four stages, see `stage_modules`.
        target_weight: alpha in the paper.
        others_weight: beta in the paper.
        weak_weight: mu in the paper.
    """

    refuses: Mapping[str, str] = {"mixup": f"uskd {NEEDS_INDICES}", "bce": f"uskd {NEEDS_SOFTMAX}"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        target_weight: Weight = 1.0,
        others_weight: Weight = 0.1,
        weak_weight: Weight = 0.005,
    ) -> None:
        super().__init__(model, criterion)
        self.target_weight, self.others_weight, self.weak_weight = target_weight, others_weight, weak_weight
        channels, _ = stage_shapes(model)[-2]
        like = next(model.parameters())
        self.weak = nn.Linear(channels, num_classes_of(model), device=like.device, dtype=like.dtype)
        self._tap = StageTap(model, stage_modules(model)[-2])

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = self.class_indices(target)
        with watching(self._tap):
            out, logits = self.anchor_forward(input)
        weak_logits = full_precision(self.weak(self._tap.take().mean(dim=(2, 3))))
        log_p = logits.log_softmax(dim=1)
        own = log_p.gather(1, labels[:, None])
        with torch.no_grad():
            squared = own.exp().square()
            soft = squared + 1 - squared.mean()
            w = weak_logits.softmax(dim=1)
            rest = 1 + 1e-6 - w.gather(1, labels[:, None]), 1 + 1e-6 - own
            zipf = zipf_of_ranks(w / rest[0] + log_p / rest[1], labels)
        terms = {
            "ce": self.criterion(logits, labels),
            "target": -(soft * own).mean(),
            "others": -(zipf * others_log_softmax(logits, labels)).sum(dim=1).mean(),
            "weak": F.cross_entropy(weak_logits, labels, label_smoothing=0.1),
        }
        loss = terms["ce"] + self.target_weight * terms["target"] + self.others_weight * terms["others"]
        loss = loss + self.weak_weight * terms["weak"]
        return out | {"loss": loss} | {name: value.detach() for name, value in terms.items()}
