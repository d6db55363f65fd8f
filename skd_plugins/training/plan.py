"""``--dry-run``: network, steps, memory and data of a training."""

import os
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..common.errors import SkdError, unknown
from ..data.augment import Augmentation
from ..data.datasets import EMBEDDED, KNOWN
from ..data.find import find_split, resolve_data
from ..data.loader import open_data
from ..data.order import Division, TrainingOrder
from ..methods import Method, create_method
from ..networks.create import build_network, check_image_size
from ..networks.freeze import freeze
from ..recipe import Recipe
from .parts import (
    build_criterion,
    build_optimizer,
    build_scheduler,
    check_mixing,
    class_note,
    highest_rate,
    mixes,
)


def make_plan(recipe: Recipe, *, data: str | None = None) -> dict[str, Any]:
    """The plan's rows. Without `data` the official sizes of the recipe's data set are assumed, and the plan says so."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if data is None and recipe.dataset not in EMBEDDED:
        if recipe.dataset not in KNOWN:
            raise SkdError(f"{unknown('dataset', recipe.dataset, KNOWN)} (your own images: give --data DIR)")
        samples, val_samples, classes = KNOWN[recipe.dataset]
        found = f"not given (--data); assumed to be {recipe.dataset}"
        targets = torch.arange(samples).remainder(classes).numpy()
    else:
        folder = resolve_data(recipe.dataset, data)
        train_data, val_data = (open_data(find_split(folder, half)) for half in (True, False))
        samples, val_samples, targets = len(train_data), len(val_data), train_data.targets
        classes = len(train_data.classes or ()) or int(targets.max()) + 1
        found = f"{train_data.path}, {val_data.path}"
    num_classes = recipe.num_classes or classes
    if note := class_note(recipe, classes):
        found += f"; {note}"

    # The meta device computes shapes only.
    with torch.device("meta"):
        model = build_network(recipe.model, num_classes=num_classes, **recipe.model_args)
        freeze(model, recipe.freeze)
        method = create_method(recipe.method, model, build_criterion(recipe), **recipe.method_args)
    check_image_size(model, *recipe.sides)
    check_mixing(recipe, method)
    order = TrainingOrder(
        targets, segments=method.segments, batch_size=recipe.batch_size, couples=method.couples,
        division=Division(world=processes, accumulation=recipe.grad_accumulation, even=mixes(recipe)),
        repeats=recipe.repeated_augmentation,
    )  # fmt: skip
    anchors = recipe.batch_size // (processes * recipe.grad_accumulation)
    steps = min(recipe.epochs * order.steps, recipe.max_steps or recipe.epochs * order.steps)
    optimizer = build_optimizer(recipe, method)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return {
        "recipe": f"{recipe.name} (seed {recipe.seed})",
        "method": f"{recipe.method} {recipe.method_args}" if recipe.method_args else recipe.method,
        "network": f"{recipe.model}, {num_classes} classes, {recipe.image_size} x {recipe.image_size} px",
        **({"training images": _sizes(recipe)} if recipe.train_sizes else {}),
        "augmentation": _augmentation(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({"of these, frozen": frozen} if recipe.freeze != "none" else {}),
        "training-only parameters": sum(p.numel() for p in method.parameters())
        - sum(p.numel() for p in model.parameters()),
        "data": found,
        "training anchors": samples,
        "validation images": val_samples,
        "images decoded an epoch": samples * len(method.segments),
        "processes": processes,
        "anchors a step": f"{recipe.batch_size} = {processes} x {recipe.grad_accumulation} x {anchors}",
        "steps an epoch": order.steps,
        "steps": steps,
        "loss": _loss(recipe),
        "optimizer": _optimizer(recipe, optimizer),
        "schedule": _schedule(recipe),
        "rates": _rates(recipe, optimizer, order.steps, steps),
        "memory a process": estimate_memory(recipe, method, anchors * len(method.segments)),
    }


def estimate_memory(recipe: Recipe, method: Method, images: int) -> dict[str, int]:
    """Bytes of one training step, without convolutions' workspaces and fragmentation.

    A step on the meta device counts what autograd saves for backward.
    """
    saved: dict[int, tuple[torch.Tensor, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = (tensor, storage.nbytes())  # holding the tensor keeps its address from being reused
        return tensor

    weights = {parameter.untyped_storage()._cdata for parameter in method.parameters()}
    method.train()
    side = max((side for _, side in recipe.train_sizes), default=recipe.image_size)
    with torch.device("meta"):
        input = torch.empty(images, 3, side, side)
        target = torch.zeros(images, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = method(input, target)
    activations = sum(size for key, (_, size) in saved.items() if key not in weights)
    del result
    if recipe.precision != "no":
        activations //= 2  # autocast saves them in 16 bits; the meta device has no autocast
    state = sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers()))
    gradients = state - sum(parameter.nbytes for parameter in method.parameters() if not parameter.requires_grad)
    optimizer = _optimizer_state(recipe, method)
    parts = {"weights": state, "gradients": gradients, "optimizer": optimizer, "activations": activations}
    if recipe.ema_decay:
        parts["average"] = sum(tensor.nbytes for tensor in method.model.state_dict().values())
    return parts | {"input": images * 3 * side**2 * 5}


def _optimizer_state(recipe: Recipe, method: Method) -> int:
    """What the optimizer keeps after a step on the meta device."""
    optimizer = build_optimizer(recipe, method)
    for parameter in method.parameters():
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError):  # the optimizer reads values, which the meta device does not have
        return sum(parameter.nbytes for parameter in method.parameters())
    finally:
        optimizer.zero_grad()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))


def print_plan(recipe: Recipe, *, data: str | None = None) -> None:
    """Prints `make_plan` as a table, from the first process only."""
    plan = make_plan(recipe, data=data)
    if int(os.environ.get("RANK", 0)):
        return
    table = Table(title=f"Plan of {recipe.name}", title_justify="left", show_header=False, box=None)
    for key, value in plan.items():
        if isinstance(value, dict):
            parts = ", ".join(f"{name} {_size(size)}" for name, size in value.items())
            text = f"about {_size(sum(value.values()))} ({parts})"
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(f"[bold]{key}", text)
    Console(soft_wrap=False).print(table)


def _sizes(recipe: Recipe) -> str:
    (_, begin), *later = Augmentation.of(recipe).sizes
    return ", ".join([f"{begin} x {begin} px", *(f"after {first} epochs {side} x {side} px" for first, side in later)])


def _loss(recipe: Recipe) -> str:
    over = "sum" if recipe.bce_sum else "mean"
    texts = ["cross-entropy" if recipe.loss == "ce" else f"binary cross-entropy, {over} over the classes"]
    fields = {"targets above": recipe.bce_threshold, "label smoothing": recipe.label_smoothing or None,
              "mixup": recipe.mixup or None, "cutmix": recipe.cutmix or None}  # fmt: skip
    return ", ".join([*texts, *(f"{name} {value:g}" for name, value in fields.items() if value is not None)])


def _optimizer(recipe: Recipe, optimizer: torch.optim.Optimizer) -> str:
    texts = [type(optimizer).__name__, f"lr {recipe.lr:g}"]
    if "momentum" in optimizer.defaults:
        texts.append(f"momentum {recipe.momentum:g}")
    texts.append(f"weight decay {recipe.weight_decay:g}")
    if not recipe.decay_norm_and_bias:
        texts[-1] += " (not on norms and biases)"
    if recipe.layer_decay:
        lowest = min(group["lr_scale"] for group in optimizer.param_groups)
        texts.append(f"layer decay {recipe.layer_decay:g} (first layer's lr {recipe.lr * lowest:.3g})")
    if recipe.clip_grad:
        texts.append(f"gradients clipped to {recipe.clip_grad:g} ({recipe.clip_mode})")
    if recipe.ema_decay:
        texts.append(f"weights averaged with {recipe.ema_decay:g}{' (warm-up)' if recipe.ema_warmup else ''}")
    return ", ".join(texts)


def _augmentation(recipe: Recipe) -> str:
    spec, repeats = Augmentation.of(recipe), recipe.repeated_augmentation
    crop = f"random crop of {spec.scale[0]:g} to {spec.scale[1]:g} of the area"
    texts = [crop if spec.mode == "rrc" else f"shift by up to {spec.padding} px"]
    names = {
        "hflip": "flip", "vflip": "vertical flip", "auto_augment": "", "color_jitter": "colour jitter",
        "grayscale": "grayscale", "random_erasing": "random erasing",
    }  # fmt: skip
    values = {name: getattr(spec, field) for field, name in names.items()}
    texts += [f"{name} {value}".strip() for name, value in values.items() if value]
    texts += [f"1/{repeats} of the images an epoch, each {repeats} times"] if repeats > 1 else []
    return ", ".join(texts)


def _schedule(recipe: Recipe) -> str:
    texts = {
        "multistep": f"x {recipe.lr_decay:g} at epochs {', '.join(map(str, recipe.milestones))}",
        "cosine": f"cosine to {recipe.min_lr:g}",
        "linear": f"linear to {recipe.min_lr:g}",
        "constant": "constant",
    }
    warmup = f", {recipe.warmup_epochs} epochs warm-up" if recipe.warmup_epochs else ""
    return f"{recipe.epochs} epochs, {texts[recipe.schedule]}{warmup}"


def _rates(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int, steps: int) -> str:
    """The rates of the first and the last step, and the highest one, which an epoch begins with."""
    scheduler, rates = build_scheduler(recipe, optimizer, steps_per_epoch), []
    for step in (*range(0, steps, steps_per_epoch), steps - 1):
        if scheduler is not None:
            scheduler.step_update(step)
        rates.append(highest_rate(optimizer))
    return f"{rates[0]:.3g} first, {max(rates):.3g} highest, {rates[-1]:.3g} last"


def _size(count: int) -> str:
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('B', 'KB', 'MB', 'GB')[power]}"
