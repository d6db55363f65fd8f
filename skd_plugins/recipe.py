"""Recipes: everything a training run depends on, as one frozen, flat record of JSON values."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from .common.errors import SkdError, unknown
from .common.typed import check_value, parse_assignments


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, how, on what. Values are checked when a recipe is made.

    Attributes:
        name: ``arch.tag``, the name of the run's folder and of the exported weights.
        dataset: what the recipe is meant for; ``digits`` is embedded and is used when no data is given.
        model: timm's name, or ``torchvision/NAME``.
        model_args: arguments of its constructor.
        num_classes: outputs; None takes the data's. A number that is not the data's is refused.
        initial_weights: file to start from: exported weights or a checkpoint.
        method: see ``skd list methods``.
        method_args: its arguments.
        epochs: passes over the anchors.
        batch_size: anchors an optimizer step, over all processes and micro-batches; pairs and views come on top.
        grad_accumulation: micro-batches a step.
        max_steps: stop after so many optimizer steps.
        optimizer: timm's name. ``momentum`` is SGD without Nesterov (timm's ``sgd`` has it).
        lr: learning rate for this `batch_size`; nothing rescales it.
        momentum: of the optimizer.
        weight_decay: of the optimizer.
        decay_norm_and_bias: decay one-dimensional parameters too, as the papers' code does (timm does not).
        schedule: timm's scheduler. It is stepped after every optimizer step.
        milestones: epochs at which ``multistep`` multiplies the rate by `lr_decay`.
        lr_decay: see `milestones`.
        min_lr: lower end of ``cosine``.
        warmup_epochs: linear warm-up.
        clip_grad: largest gradient norm, None for no clipping.
        ema_decay: decay of an exponential moving average of the weights, None for none. It is what is validated then.
        label_smoothing: of the cross-entropy.
        mixup: alpha of timm's mixup, 0 for none.
        cutmix: alpha of timm's cutmix, 0 for none.
        image_size: side of the input, pixels.
        augment: ``rrc`` or ``shift``, see `Augmentation`.
        scale: see `Augmentation`.
        ratio: see `Augmentation`.
        padding: see `Augmentation`.
        hflip: see `Augmentation`.
        crop_pct: see `Augmentation`.
        interpolation: see `Augmentation`.
        mean: channel means in [0, 1].
        std: channel standard deviations.
        eval_batch_size: images a batch and process in validation, None for the training batch's anchors.
        precision: ``no`` (float32), ``bf16`` or ``fp16``.
        channels_last: memory format.
        compile: torch.compile the step.
        sync_bn: BatchNorm over all processes (GPUs only).
        workers: decoding threads (`.beton`) or processes (folder), a process.
        skip_broken: leave undecodable images out and count them.
        seed: of initialisation, order, augmentation and dropout.
        deterministic: on a GPU, only algorithms that repeat their results bit by bit (slower; see docs/reliability.md).
        validate_every: epochs between validations; the last epoch is always validated.
        save_every: epochs between checkpoints that are kept, 0 for only last and best.
        save_minutes: write the last checkpoint also within an epoch when so many minutes have passed, 0 for never.
        timeout_minutes: how long a process waits for another one, which may have died or hang, before it gives up.
        log_every: steps between lines of ``metrics.jsonl``.
        trackers: accelerate's trackers; ``tensorboard``, ``wandb``.
    """

    name: str
    dataset: str = "imagenet-1k"
    model: str = "resnet50"
    model_args: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    initial_weights: str | None = None
    method: str = "ce"
    method_args: dict[str, Any] = field(default_factory=dict)
    epochs: int = 90
    batch_size: int = 256
    grad_accumulation: int = 1
    max_steps: int | None = None
    optimizer: str = "momentum"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: tuple[int, ...] = (30, 60)
    lr_decay: float = 0.1
    min_lr: float = 0.0
    warmup_epochs: int = 0
    clip_grad: float | None = None
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    image_size: int = 224
    augment: Literal["rrc", "shift"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    hflip: float = 0.5
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    eval_batch_size: int | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    compile: bool = False
    sync_bn: bool = False
    workers: int = 8
    skip_broken: bool = False
    seed: int = 0
    deterministic: bool = False
    validate_every: int = 1
    save_every: int = 0
    save_minutes: float = 15.0
    timeout_minutes: float = 10.0
    log_every: int = 50
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, check_value(getattr(self, name), hint, what=name))
        for name in ("model_args", "method_args"):
            try:  # as JSON has them (lists, no tuples), so that a recipe equals what is read back
                object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))
            except (TypeError, ValueError) as error:
                raise SkdError(f"{name} should be JSON values: {error}") from None
        for name in ("epochs", "batch_size", "grad_accumulation", "image_size", "validate_every", "log_every"):
            self._need(getattr(self, name) >= 1, name, "at least 1")
        for name in ("lr", "min_lr", "momentum", "weight_decay", "warmup_epochs", "mixup", "cutmix", "workers",
                     "save_every"):  # fmt: skip
            self._need(getattr(self, name) >= 0, name, "at least 0")
        self._need(0 <= self.seed < 2**63, "seed", "from 0 to 2**63 - 1")
        for name in ("label_smoothing", "hflip", "crop_pct"):
            self._need(0 <= getattr(self, name) <= 1, name, "from 0 to 1")
        self._need(self.crop_pct > 0, "crop_pct", "above 0")
        self._need(self.clip_grad is None or self.clip_grad > 0, "clip_grad", "above 0, or null for none")
        self._need(list(self.milestones) == sorted(self.milestones), "milestones", "in ascending order")
        self._need(min(self.std) > 0, "std", "above 0")
        self._need(self.eval_batch_size is None or self.eval_batch_size >= 1, "eval_batch_size", "at least 1, or null")
        self._need(self.timeout_minutes > 0, "timeout_minutes", "above 0")
        self._need(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", "between 0 and 1")
        self._need(self.max_steps is None or self.max_steps >= 1, "max_steps", "at least 1")
        self._need("/" not in self.name and self.name not in ("", ".", ".."), "name", "a plain file name")

    def _need(self, fine: bool, name: str, what: str) -> None:
        if not fine:
            raise SkdError(f"{name} should be {what}, got {getattr(self, name)!r}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str = "recipe") -> Recipe:
        """The inverse of `to_json`; unknown fields are refused."""
        known = {item.name for item in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise unknown(f"field of {where}", name, known)
        if "name" not in values:
            raise SkdError(f"{where} has no field 'name'")
        return cls(**values)


def replace(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe that differs in the given fields."""
    known = {item.name for item in dataclasses.fields(recipe)}
    for name in changes:
        if name not in known:
            raise unknown("recipe field", name, known)
    return dataclasses.replace(recipe, **changes)


def override(recipe: Recipe, texts: list[str]) -> Recipe:
    """Applies ``field=value`` texts. ``method_args.weight=0.2`` changes one entry; ``method_args={...}`` replaces all.

    A new ``method`` without new ``method_args`` gets that method's defaults, and without a new ``name`` its own folder:
    the recipe's name with the method after it.
    """
    changes = parse_assignments(texts)
    if "method" in changes and changes["method"] != recipe.method:
        recipe = dataclasses.replace(recipe, method_args={}, name=f"{recipe.name}_{changes['method']}")
    whole = {text.partition("=")[0] for text in texts}
    for name in ("method_args", "model_args"):
        if name in changes and name not in whole:
            changes[name] = {**getattr(recipe, name), **changes[name]}
    return replace(recipe, **changes)


def load_recipe(path: Path) -> Recipe:
    """Reads a run's ``recipe.json`` (its environment record is left out)."""
    try:
        values = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist") from None
    except ValueError as error:
        raise SkdError(f"{path} is not a recipe: {error}") from None
    if not isinstance(values, dict):
        raise SkdError(f"{path} is not a recipe: expected an object")
    values.pop("environment", None)
    return Recipe.from_json(values, where=str(path))
