"""Validation while a network trains."""

import torch
from accelerate import Accelerator
from timm.utils import distribute_bn
from torch import nn

from ..common.errors import SkdError
from ..data.loader import Loader
from ..methods.task import MethodTask
from .progress import Progress


@torch.no_grad()
def validate(
    accelerator: Accelerator, task: MethodTask, loader: Loader, progress: Progress, *, ema: bool
) -> dict[str, float]:
    """``top1``, ``top5`` (fractions), ``nll`` and ``count`` over all processes; every sample counts once."""
    model = task.get_eval_model(ema=ema)
    assert model is not None
    if accelerator.num_processes > 1:
        for part in (task.method.model, task.get_eval_model(ema=True)):
            if part is not None:  # every process evaluates with the statistics that the first one saves
                distribute_bn(part, accelerator.num_processes, reduce=False)
    was_training = model.training
    model.eval()
    sums, own = torch.zeros(3, dtype=torch.float64, device=accelerator.device), 0
    for input, target in progress.validation(loader, len(loader)):
        with accelerator.autocast():
            logits = model(input).float()
        ranked = logits.topk(min(5, logits.shape[1])).indices == target[:, None]
        nll = nn.functional.cross_entropy(logits, target, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), nll])
        own += len(target)
    model.train(was_training)
    totals = torch.cat([sums, sums.new_tensor([own])])
    top1, top5, nll, count = accelerator.reduce(totals, reduction="sum").tolist()
    if not count:
        raise SkdError(f"no image of {loader.data.path} could be evaluated")
    return {"top1": top1 / count, "top5": top5 / count, "nll": nll / count, "count": count}
