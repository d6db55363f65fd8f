"""Zipf's label smoothing: the other classes get Zipf's distribution, in the order of the network's local votes."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..losses import zipf_ls_loss
from ..networks.stages import StageTap, check_resumable, resume_after, stage_modules, stage_shapes, watching
from .method import NEEDS_INDICES, NEEDS_SOFTMAX, Criterion, Method, Weight, register_method


@register_method("zipf_ls")
class ZipfLS(Method):
    """Zipf's LS (Liang et al. 2022): label smoothing whose classes are ranked by the network's own local predictions.

    ``loss = CE + weight * KL(z || p_others)``: ``p_others`` is the softmax over the classes other than the image's, and
    z gives each of them ``1 / rank``, normalised. The rank is by votes: the classifier is applied to every position of
    the last stage's maps, and each votes for its best class. Classes with equal votes share the better rank. Nothing
    but the classifier (with what stands between it and the last stage) is computed twice, without gradient.

    Source: Liang et al. 2022, the dense ranking; the authors' code (megvii-research/zipfls, pytorch_zipfls/losses.py:
        zipf_loss with ``dense`` and ``rank_zipf``; train.py). Its weight is 0.1 on CIFAR-100 and ImageNet, 1 on
        TinyImageNet and INAT-21.
    Deviation: none in the loss. That code enlarges the maps twice on images of 32 pixels and not on ImageNet; here this
        is `upsample`, and off unless set.
    Logs: ``ce`` and ``zipf``.

    Args:
        model: has four stages, see `stage_modules`.
        upsample: factor by which the maps are enlarged before the vote; 2 where they are 4 x 4.
    """

    refuses: Mapping[str, str] = {"mixup": f"zipf_ls {NEEDS_INDICES}", "bce": f"zipf_ls {NEEDS_SOFTMAX}"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        weight: Weight = 0.1,
        upsample: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__(model, criterion)
        self.weight, self.upsample = weight, upsample
        stage_shapes(model)  # an error if there are no maps
        last = stage_modules(model)[-1]
        check_resumable(model, last)
        self._tap = StageTap(model, last)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = self.class_indices(target)
        with watching(self._tap):
            out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, labels)
        zipf = zipf_ls_loss(logits, labels, self._dense_logits(self._tap.take().detach()))
        return out | {"loss": ce + self.weight * zipf, "ce": ce.detach(), "zipf": zipf.detach()}

    @torch.no_grad()
    def _dense_logits(self, maps: Tensor) -> Tensor:
        """The network's logits of each position, as if it were the whole map: ``[B, D, h, w]`` to ``[B, h * w, C]``."""
        if self.upsample > 1:
            maps = F.interpolate(maps, scale_factor=self.upsample, mode="bilinear")
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1], 1, 1)
        logits: Tensor = resume_after(self.model, self._tap.name, rows)
        return logits.reshape(len(maps), -1, logits.shape[1])
