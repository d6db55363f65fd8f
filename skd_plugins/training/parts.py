"""From a recipe's fields to loaders, network and method, optimizer and schedule."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from timm.data.mixup import Mixup
from timm.layers import convert_sync_batchnorm
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import dispatch_clip_grad
from torch import nn

from ..common.errors import SkdError
from ..data.augment import Augmentation
from ..data.datasets import KNOWN
from ..data.loader import Loader, make_loader
from ..data.order import Division
from ..methods import Method
from ..methods.method import layers_of
from ..methods.task import MethodTask, create_task
from ..networks.create import build_network
from ..networks.freeze import freeze
from ..recipe import Recipe
from .start import start


def training_loader(
    recipe: Recipe, path: Path, method: Method, *, rank: int, world: int, device: torch.device
) -> Loader:
    """Random crops of `path` in batches of the method's segments."""
    return make_loader(
        path, train=True, segments=method.segments, couples=method.couples, batch_size=recipe.batch_size,
        augmentation=Augmentation.of(recipe), seed=recipe.seed, workers=_workers(recipe), device=device,
        division=Division(rank=rank, world=world, accumulation=recipe.grad_accumulation, even=mixes(recipe)),
        skip_broken=recipe.skip_broken, repeats=recipe.repeated_augmentation,
    )  # fmt: skip


def evaluation_loader(
    recipe: Recipe, path: Path, *, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
) -> Loader:
    """Centre crops of `path` with the recipe's pre-processing."""
    size = recipe.eval_batch_size or min(recipe.batch_size, max(recipe.batch_size // world, 256))
    return make_loader(
        path, train=False, batch_size=size,
        augmentation=Augmentation.of(recipe), workers=_workers(recipe),
        division=Division(rank=rank, world=world), skip_broken=recipe.skip_broken, device=device,
    )  # fmt: skip


def _workers(recipe: Recipe) -> int:
    """At most one per core; the batches do not depend on it."""
    return min(recipe.workers, os.cpu_count() or 1)


def build_task(
    recipe: Recipe, num_classes: int, device: torch.device, say: Callable[[str], object] = print
) -> MethodTask:
    """The network with its initial weights, and the method around it; says if the weights' classifier is not used."""
    model = build_network(recipe.model, num_classes=num_classes, **recipe.model_args)
    for note in start(model, recipe):
        say(note)
    model.to(device)
    synchronised = recipe.sync_bn and device.type == "cuda"
    if synchronised:
        model = convert_sync_batchnorm(model)
    freeze(model, recipe.freeze)
    criterion = build_criterion(recipe)
    task = create_task(recipe.method, model, criterion, device=device, verbose=False, **recipe.method_args)
    if recipe.loss == "bce" and not recipe.bce_sum:
        task.loss_scale = 1 / num_classes
    if synchronised:
        synchronise_own_parts(task.method)
    if recipe.channels_last:  # with what the method adds, such as branches and a teacher
        task.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's
    return task


def synchronise_own_parts(method: Method) -> None:
    """SyncBatchNorm in what a method adds to the network, such as BYOT's branches and DML's second network."""
    for part in [item for item in method.modules() if isinstance(item, Method)]:
        for name, child in list(part.named_children()):
            if child is not part.model and not isinstance(child, Method):
                setattr(part, name, convert_sync_batchnorm(child))


def build_criterion(recipe: Recipe) -> nn.Module:
    """The criterion with the recipe's label smoothing; timm's mixup smooths its targets itself.

    BCE is summed over the classes, as large as cross-entropy, so that the methods' weights mean the same; `build_task`
    divides the whole loss instead.
    """
    smoothing = 0.0 if mixes(recipe) else recipe.label_smoothing
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing, target_threshold=recipe.bce_threshold, sum_classes=True)
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def mixes(recipe: Recipe) -> bool:
    """Whether images are mixed."""
    return bool(recipe.mixup or recipe.cutmix)


def build_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None."""
    if not mixes(recipe):
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def check_mixing(recipe: Recipe, method: Method) -> None:
    """Refuses mixup and cutmix for a method that needs class indices."""
    if mixes(recipe) and "mixup" in method.refuses:
        raise SkdError(f"mixup={recipe.mixup:g}, cutmix={recipe.cutmix:g}: {method.refuses['mixup']}; leave them out")


def class_note(recipe: Recipe, classes: int) -> str:
    """A line if the data has not the classes that the recipe's data set has; else an empty one."""
    expected = KNOWN[recipe.dataset][2] if recipe.dataset in KNOWN else classes
    return "" if classes == expected else f"{recipe.dataset} has {expected} classes, this data {classes}"


def build_optimizer(recipe: Recipe, method: Method) -> torch.optim.Optimizer:
    """timm's optimizer of that name over all parameters of the method."""
    if recipe.layer_decay and len(set(layers_of(method.model).values())) < 2:
        raise SkdError(
            f"layer_decay={recipe.layer_decay:g}: {recipe.model} does not say which layer a parameter is of (timm's "
            "group_matcher); leave it out, or take one of timm's networks"
        )
    try:
        return create_optimizer_v2(
            method, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay,
            momentum=recipe.momentum, filter_bias_and_bn=not recipe.decay_norm_and_bias, layer_decay=recipe.layer_decay,
            **recipe.optimizer_args,
        )  # fmt: skip
    except (ValueError, AssertionError, TypeError, RuntimeError) as error:
        raise SkdError(f"optimizer {recipe.optimizer!r}: {error}") from None


def build_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler | None:
    """timm's scheduler, stepped after every optimizer step; None for a constant learning rate."""
    if recipe.schedule == "constant" and not recipe.warmup_epochs and not recipe.layer_decay:
        return None  # with layer_decay, it is the scheduler that scales the layers' rates
    falling = recipe.schedule in ("cosine", "linear")  # from the top, after the warm-up, to the end of the last epoch
    milestones = () if recipe.schedule == "constant" else recipe.milestones
    names = {"constant": "multistep", "linear": "poly"}  # timm's "none" has no warm-up
    scheduler: Scheduler | None = create_scheduler_v2(
        optimizer, sched=names.get(recipe.schedule, recipe.schedule), warmup_prefix=falling,
        num_epochs=max(recipe.epochs - recipe.warmup_epochs, 1) if falling else recipe.epochs,
        # timm lowers the rate one update before a milestone; half an update more puts it at the milestone.
        decay_milestones=[epoch + 0.5 / steps_per_epoch for epoch in milestones],  # type: ignore[misc]  # int: timm
        decay_rate=1.0 if recipe.schedule == "linear" else recipe.lr_decay, min_lr=recipe.min_lr,
        warmup_epochs=recipe.warmup_epochs, warmup_lr=0.0, step_on_epochs=False, updates_per_epoch=steps_per_epoch,
    )[0]  # fmt: skip
    return scheduler


def highest_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate as it is logged: the classifier's, if `layer_decay` makes the layers' smaller."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def clip_gradients(
    recipe: Recipe, accelerator: Accelerator, optimizer: torch.optim.Optimizer, task: MethodTask
) -> None:
    """Clips as the recipe says, with timm's functions; AGC leaves out the network's classifier, but no branch's."""
    if recipe.clip_grad is not None:
        accelerator.unscale_gradients(optimizer)  # of fp16
        parameters = task.get_clip_parameters(exclude_head=recipe.clip_mode == "agc")
        dispatch_clip_grad(parameters, recipe.clip_grad, recipe.clip_mode)
