"""PS-KD: the previous epoch's network softens the targets, increasingly so."""

import copy
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from ..losses import full_precision
from .method import Criterion, Method, register_method


@register_method("ps_kd")
class PSKD(Method):
    """PS-KD (Kim et al., ICCV 2021, Eq. 4-6): self-knowledge distillation with progressive refinement of targets.

    ``loss = (1 - alpha_t) * CE(y, p) + alpha_t * H(p_before, p)`` where ``p_before`` is the prediction of the network
    from the end of the previous epoch, and ``alpha_t = alpha * t / T`` in epoch t of T. In the first epoch alpha_t is
    0, because there is no previous network.

    Source: Kim et al. 2021, section 3.1; alpha = 0.8 and the linear growth are the paper's.
    Deviation: the paper's authors keep either the previous epoch's network, or the predictions made for all samples
        during that epoch. We keep the network: all its predictions come from the same weights, and it sees the same
        crops as its student, for one more forward pass. It predicts in evaluation mode. ``CE`` is the criterion, so
        mixup and label smoothing work.
    Logs: ``ce`` and ``soft``, both unweighted, and ``alpha``.

    Args:
        alpha: the last epoch's alpha_t.
    """

    epoch: Tensor
    alpha_now: Tensor
    passes = (1, 1)
    needs_epoch = True
    replicated = ("before",)

    def __init__(
        self, model: nn.Module, criterion: Criterion = None, *, alpha: Annotated[float, Field(ge=0, le=1)] = 0.8
    ) -> None:
        super().__init__(model, criterion)
        self.alpha = alpha
        self.before = frozen_copy(model)
        # Tensors, so that a change does not recompile the step, and checkpoints include them.
        self.register_buffer("epoch", torch.tensor(-1))
        self.register_buffer("alpha_now", torch.tensor(0.0))

    @torch.no_grad()
    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Keeps the network as it is now, unless a run is resumed within this epoch."""
        if int(self.epoch) != epoch:
            state = self.model.state_dict()
            for name, value in self.before.state_dict().items():
                value.copy_(state[name])
                if dist.is_available() and dist.is_initialized():  # BatchNorm's statistics differ between processes
                    dist.broadcast(value, 0)
        self.epoch.fill_(epoch)
        self.alpha_now.fill_(self.alpha * (epoch + 1) / epochs if epoch else 0.0)

    def train(self, mode: bool = True) -> "PSKD":
        super().train(mode)
        self.before.eval()
        return self

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out, logits = self.anchor_forward(input)
        with torch.no_grad():
            probabilities = full_precision(self.before(input)).softmax(dim=-1)
        ce = self.criterion(logits, target)
        soft = -(probabilities * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        loss = (1 - self.alpha_now) * ce + self.alpha_now * soft
        return out | {"loss": loss, "ce": ce.detach(), "soft": soft.detach(), "alpha": self.alpha_now.clone()}


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters are buffers: saved and moved with the method, but not trained."""
    frozen: Any = copy.deepcopy(model)
    for module in frozen.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return frozen.eval()  # type: ignore[no-any-return]
