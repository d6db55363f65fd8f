"""Knowledge distillation from a frozen teacher, added to any method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from ..networks.build import num_classes_of
from .losses import kl_divergence
from .method import Method, at_least, create_base, register_method


@register_method("kd")
class KD(Method):
    """Knowledge distillation (Hinton et al. 2015, section 2) from a frozen teacher, added to any base method.

    ``loss = base loss + weight * T^2 * KL(P_teacher(x; T) || P(x; T))`` of the anchors. On `cs_kd` it is the
    combination of CS-KD's section 3.2: the student learns from the teacher and from itself.

    The teacher is no part of the method: it is always in evaluation mode, and neither the optimizer nor a checkpoint
    gets its weights. It sees the student's inputs, normalised as the student's are.

    Source: Hinton et al. 2015, section 2; CS-KD (Yun et al. 2020), section 3.2 and Table 4, without code and values.
    Deviation: Hinton's hard-label term has a small weight; here it is the base's loss with weight 1, as in CS-KD's
        other terms. T = 4 and weight 1 are ours.

    Args:
        model: see `Method`.
        criterion: see `Method`.
        teacher: what `skd_plugins.weights.read_weights` takes (a run's folder, exported weights, a name of released
            ones); a timm model's name, which gets the weights that timm has for it; or a network.
        base: name of the method it is added to.
        base_args: arguments of that method.
        weight: of the divergence.
        temperature: T.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        teacher: str | nn.Module,
        base: str = "ce",
        base_args: dict[str, Any] | None = None,
        weight: float = 1.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(model, criterion)
        self.base = create_base(self.name, base, model, criterion, base_args)
        self.segments, self.couples = self.base.segments, self.base.couples
        with_gradient, without = self.base.passes
        self.passes = (with_gradient, without + 1)  # the teacher's pass counts as one of the student's
        self.refuses = {
            **self.base.refuses,
            "kd": "it has a teacher already",
            "sd_dropout": "kd comes last; use kd with base=sd_dropout",
        }
        self.weight = at_least(weight, 0, "kd: weight")
        self.temperature = at_least(temperature, 0, "kd: temperature", strict=True)
        teacher = load_teacher(teacher, num_classes_of(model)) if isinstance(teacher, str) else teacher
        classes = num_classes_of(teacher)
        if classes != num_classes_of(model):
            raise SkdError(f"kd: the teacher has {classes} classes, the network {num_classes_of(model)}")
        device = next(model.parameters()).device
        # Not registered as a submodule, or it would be trained, saved and switched to training mode like one.
        self._teacher = (teacher.to(device).eval().requires_grad_(False),)

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``teacher`` to the base's terms."""
        out: dict[str, Tensor] = self.base(input, target)
        with torch.no_grad():
            teacher_logits = self._teacher[0](self.split(input, target)[0][0])
        teacher = kl_divergence(teacher_logits, out["output"], self.temperature) * self.temperature**2
        return out | {"loss": out["loss"] + self.weight * teacher, "teacher": teacher.detach()}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> KD:
        """Moves the teacher where the method goes (``to``, ``cuda``, ``double``)."""
        self._teacher[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def load_teacher(name: str, classes: int) -> nn.Module:
    """A trained network.

    Args:
        name: see `KD`.
        classes: what the student has; a network of timm's with another number is refused before it is downloaded.

    Raises:
        SkdError: there is no such thing, or it does not fit.
    """
    import timm

    from ..weights import load_network

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
