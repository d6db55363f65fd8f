"""Recipes: everything that a training depends on, as one frozen, flat record of JSON values."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import Field

from .common.errors import SkdError, unknown
from .common.run_files import read_recipe
from .common.typed import check_value, parse_assignments

Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Whole: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Number: TypeAlias = Annotated[float, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Decay: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
# A field, and the value of another one with which it has no effect.
_IDLE = (
    ("clip_mode", "clip_grad", None), ("ema_warmup", "ema_decay", None), ("bce_sum", "loss", "ce"),
    ("bce_threshold", "loss", "ce"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, how, and on what. Values are checked when a recipe is made.

    Attributes:
        name: ``arch.tag``, for the run's folder and the exported weights.
        dataset: what the recipe is meant for; ``digits`` is embedded and used if no data is given.
        model: timm's name, or ``torchvision/NAME``.
        num_classes: outputs of the network; None takes the number from the data, which may have fewer if they do
            not name their classes.
        initial_weights: weights to start from, also of another program; their classifier is used if it fits.
            ``pretrained`` is what timm or torchvision publish for `model` (on the Hugging Face Hub, for timm).
        freeze: what fine-tuning leaves as it is: ``norms``, the BatchNorm layers with their statistics; ``stem``; or
            ``body``, all but the classifier.
        epochs: passes over the anchors.
        batch_size: anchors per optimizer step, over all processes and micro-batches; pairs and views come on top.
        grad_accumulation: micro-batches per step.
        max_steps: stop after this many optimizer steps.
        optimizer: timm's name. ``momentum`` is SGD without Nesterov momentum; timm's ``sgd`` has it. ``lamb`` limits
            the gradients' norm to 1 by itself.
        optimizer_args: further arguments of it, such as ``{"betas": [0.9, 0.98]}``, or ``{"fused": true}`` for torch's
            fused SGD, Adam and AdamW, which spare fp16 a wait for the GPU in each step.
        lr: learning rate for this `batch_size`; nothing rescales it.
        decay_norm_and_bias: decay one-dimensional parameters too, like the papers' code and unlike timm.
        layer_decay: each layer's learning rate is this times the next one's; the classifier and what the method adds
            (branches, a peer) have `lr`. The layers are those of the network's ``group_matcher``, which timm's have.
        schedule: timm's scheduler, stepped after every optimizer step.
        milestones: epochs at which ``multistep`` multiplies the learning rate by `lr_decay`.
        min_lr: lower end of ``cosine`` and ``linear``.
        warmup_epochs: the rate rises from 0 to `lr`, which the first step after these epochs has. ``cosine`` and
            ``linear`` fall from there to the end; `milestones` are counted from the beginning.
        clip_grad: limit of the gradients; None does not clip.
        clip_mode: what it limits: the ``norm`` of all gradients, each ``value``, or with ``agc`` the ratio of each
            unit's gradient norm to its weights' (adaptive gradient clipping), but not the network's classifier's.
        ema_decay: decay of an exponential moving average (EMA) of the weights; if set, the EMA is validated. None for
            no EMA.
        ema_warmup: the decay is at most ``1 - step^(-2/3)`` (timm's), so that the EMA forgets the first weights.
        loss: the criterion: cross-entropy, or binary cross-entropy with a sigmoid for each class (docs/choosing.md).
        bce_sum: sum it over the classes; otherwise the whole loss is divided by their number, timm's mean.
        bce_threshold: targets above this become 1, others 0; None takes them as mixup and smoothing make them.
        mixup: alpha of timm's mixup; `cutmix` likewise; 0 for none.
        image_size: side of the input in pixels.
        train_sizes: progressive resizing: ``(share, side)`` pairs, training images of that side from epoch
            int(share * `epochs`) on; `image_size` is then that of evaluation. Empty for `image_size` throughout.
        augment: ``rrc`` (random resized crop) or ``shift``; see `Augmentation` for this and the next fields, to `std`.
        auto_augment: timm's text, such as ``rand-m9-mstd0.5-inc1``, ``augmix-m3-w3``, ``3a``, or ``ta_wide``.
        color_jitter: by how much brightness, contrast and saturation vary; `grayscale`, `random_erasing`, `hflip` and
            `vflip` are probabilities.
        repeated_augmentation: how often an image is in an epoch, which keeps its length and so has fewer images.
        mean: channel means of images in [0, 1]; `std` likewise.
        eval_batch_size: images per batch and process in validation; None takes a training step's anchors, but not
            more than a process's share of them or 256, whichever is larger.
        precision: ``no`` (float32), ``bf16`` or ``fp16``.
        compile: torch.compile the step.
        sync_bn: BatchNorm over all processes (GPUs only).
        workers: decoding threads (`.beton`) or processes (folder) per process.
        skip_broken: leave undecodable images out and count them.
        seed: of initialisation, order, augmentation and dropout.
        deterministic: use only algorithms with bit-identical results on a GPU (slower; docs/reliability.md).
        validate_every: epochs between validations; the last epoch is always validated.
        save_every: epochs between checkpoints that are kept; 0 keeps the last and the best only.
        save_minutes: minutes between checkpoints within an epoch; 0 for none.
        timeout_minutes: how long a process waits for one that does not answer.
        log_every: steps between lines of ``metrics.jsonl``.
        trackers: accelerate's trackers, such as ``tensorboard`` and ``wandb``.
    """

    name: str
    dataset: str = "imagenet-1k"
    model: str = "resnet50"
    model_args: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    initial_weights: str | None = None
    freeze: Literal["none", "norms", "stem", "body"] = "none"
    method: str = "ce"
    method_args: dict[str, Any] = field(default_factory=dict)
    epochs: Count = 90
    batch_size: Count = 256
    grad_accumulation: Count = 1
    max_steps: Count | None = None
    optimizer: str = "momentum"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    lr: Number = 0.1
    momentum: Number = 0.9
    weight_decay: Number = 1e-4
    decay_norm_and_bias: bool = True
    layer_decay: Decay | None = None
    schedule: Literal["multistep", "cosine", "linear", "constant"] = "multistep"
    milestones: tuple[int, ...] = (30, 60)
    lr_decay: float = 0.1
    min_lr: Number = 0.0
    warmup_epochs: Whole = 0
    clip_grad: Positive | None = None
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    ema_decay: Decay | None = None
    ema_warmup: bool = False
    loss: Literal["ce", "bce"] = "ce"
    bce_sum: bool = False
    bce_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    label_smoothing: Share = 0.0
    mixup: Number = 0.0
    cutmix: Number = 0.0
    image_size: Count = 224
    train_sizes: tuple[tuple[Annotated[float, Field(ge=0, lt=1)], Count], ...] = ()
    augment: Literal["rrc", "shift"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: Whole = 4
    hflip: Share = 0.5
    vflip: Share = 0.0
    auto_augment: str | None = None
    color_jitter: Number = 0.0
    grayscale: Share = 0.0
    random_erasing: Share = 0.0
    repeated_augmentation: Count = 1
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    eval_batch_size: Count | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    compile: bool = False
    sync_bn: bool = False
    workers: Whole = 8
    skip_broken: bool = False
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    deterministic: bool = False
    validate_every: Count = 1
    save_every: Whole = 0
    save_minutes: Number = 15.0
    timeout_minutes: Annotated[Positive, Field(le=1e6)] = 10.0
    log_every: Count = 50
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, check_value(getattr(self, name), hint, what=name))
        for name in ("model_args", "method_args", "optimizer_args"):
            try:  # lists instead of tuples, so that a recipe equals the one read back from JSON
                object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name), allow_nan=False)))
            except (TypeError, ValueError) as error:
                raise SkdError(f"{name} should be JSON values: {error}") from None
        if list(self.milestones) != sorted(self.milestones):
            raise SkdError(f"milestones should be in ascending order, got {self.milestones!r}")
        for name, other, value in _IDLE:
            own = getattr(self, name)
            if own != getattr(type(self), name) and getattr(self, other) == value:
                raise SkdError(f"{name}={own} has no effect with {other}={value}; leave it out, or set {other}")
        shares = [share for share, _ in self.train_sizes]
        if shares != sorted(set(shares)) or shares[:1] not in ([], [0]):
            raise SkdError(f"train_sizes should begin with share 0 and ascend, got {self.train_sizes!r}")
        if "/" in self.name or self.name in ("", ".", "..") or not self.name.isprintable():
            raise SkdError(f"name should be a plain file name, got {self.name!r}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of all images, of evaluation and training, in pixels."""
        return tuple(sorted({self.image_size, *(side for _, side in self.train_sizes)}))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str = "recipe") -> "Recipe":
        """The inverse of `to_json`."""
        _check_names(values, f"field of {where}")
        if "name" not in values:
            raise SkdError(f"{where} has no field 'name'")
        try:
            return cls(**values)
        except SkdError as error:
            raise SkdError(f"{where}: {error}") from None


def _check_names(values: dict[str, Any], what: str) -> None:
    known = {item.name for item in dataclasses.fields(Recipe)}
    for name in values:
        if name not in known:
            raise unknown(what, name, known)


def replace(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe that differs in the given fields."""
    _check_names(changes, "recipe field")
    return dataclasses.replace(recipe, **changes)


def override(recipe: Recipe, texts: list[str]) -> Recipe:
    """Applies ``field=value`` texts. ``method_args.weight=0.2`` changes one entry; ``method_args={...}`` replaces all.

    A new ``method`` drops the old ``method_args``, and the recipe's name gets ``_method=`` and its name, so that it has
    its own folder. Without ``method=``, the name would read like a combination of the two.
    """
    changes = parse_assignments(texts)
    try:
        _check_names(changes, "recipe field")
    except SkdError as error:
        raise SkdError(
            f"{error}; an argument of the method or network is method_args.NAME=, model_args.NAME="
        ) from None
    if "method" in changes and changes["method"] != recipe.method:
        recipe = dataclasses.replace(recipe, method_args={}, name=f"{recipe.name}_method={changes['method']}")
    whole = {text.partition("=")[0] for text in texts}
    for name in ("method_args", "model_args", "optimizer_args"):
        if name in changes and name not in whole:
            changes[name] = {**getattr(recipe, name), **changes[name]}
    return replace(recipe, **changes)


def load_recipe(path: Path) -> Recipe:
    """Reads a run's ``recipe.json``, without its record of the environment."""
    values = read_recipe(Path(path))
    values.pop("environment", None)
    return Recipe.from_json(values, where=str(path))
