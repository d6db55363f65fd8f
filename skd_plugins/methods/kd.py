"""Knowledge distillation from a frozen teacher, added to any method."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from ..losses import kl_divergence
from ..networks.create import num_classes_of
from ..weights import load_network
from .method import AddOn, Criterion, Temperature, Weight, register_method


@register_method("kd")
class KD(AddOn):
    """Knowledge distillation (Hinton et al. 2015, section 2) from a frozen teacher, added to any base method.

    ``loss = base loss + weight * T^2 * KL(P_teacher(x; T) || P(x; T))`` of the anchors. On `cs_kd` it is the
    combination of CS-KD's section 3.2: the student learns from the teacher and from itself.

    The teacher is always in evaluation mode, and neither the optimizer nor a checkpoint gets its weights. It sees the
    student's inputs, normalised as the student's are.

    Source: Hinton et al. 2015, section 2; CS-KD (Yun et al. 2020), section 3.2 and Table 4, without code and values.
    Deviation: Hinton's hard-label term has a small weight; here it is the base's loss with weight 1, as in CS-KD's
        other terms. T = 4 and weight 1 are ours.
    Logs: the base's terms and ``teacher``.

    Args:
        teacher: a run's folder, exported weights, the name of released ones or of a timm model that has weights, or a
            network.
    """

    refuses: Mapping[str, str] = {
        "kd": "it has a teacher already",
        "sd_dropout": "kd comes last; use kd with base=sd_dropout",
    }

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        teacher: str | nn.Module,
        base: str = "ce",
        base_args: dict[str, Any] | None = None,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
    ) -> None:
        super().__init__(model, criterion, base, base_args)
        with_gradient, without = self.base.passes
        self.passes = (with_gradient, without + 1)  # the teacher's pass counts as one of the student's
        self.weight, self.temperature = weight, temperature
        classes = num_classes_of(model)
        if isinstance(teacher, str):
            teacher = load_teacher(teacher, classes)
        if num_classes_of(teacher) != classes:
            raise SkdError(f"kd: the teacher has {num_classes_of(teacher)} classes, the network {classes}")
        # In a tuple, so it is not a submodule, which would be trained, saved and switched to training mode.
        self._teacher = (teacher.to(next(model.parameters())).eval().requires_grad_(False),)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.base(input, target)
        with torch.no_grad():
            teacher_logits = self._teacher[0](self.split(input, target)[0][0])
        teacher = kl_divergence(teacher_logits, out["output"], self.temperature)
        return out | {"loss": out["loss"] + self.weight * teacher, "teacher": teacher.detach()}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "KD":
        """Moves the teacher along (``to``, ``cuda``, ``double``)."""
        self._teacher[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def load_teacher(name: str, classes: int) -> nn.Module:
    """A trained network, see `KD`. One of timm's must have as many classes as the student, before it is downloaded."""
    model = name.removeprefix("timm/")
    if not Path(name).exists() and timm.is_model(model.split(".")[0]):
        published = timm.get_pretrained_cfg(model)
        if published is None or not published.has_weights:
            raise SkdError(f"kd: timm has no weights for {name!r}; give a path of weights of your own")
        if published.num_classes != classes:
            raise SkdError(
                f"kd: timm's weights of {name!r} have {published.num_classes} classes, the network {classes}; train a "
                "teacher on this data and give its path"
            )
        name = f"timm/{model}"
    with torch.device("cpu"):  # also when a plan is made on the meta device
        return load_network(name)[0]
