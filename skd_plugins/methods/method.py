"""What every method is: one module that owns the network and computes the whole training step."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

import torch
from pydantic import Field, FiniteFloat
from timm.loss import BinaryCrossEntropy
from timm.models import group_parameters
from torch import Tensor, nn

from ..common.errors import SkdError, unknown
from ..common.typed import check_arguments
from ..losses import full_precision
from ..networks.features import forward_with_features, tap_classifier

M = TypeVar("M", bound=type)
Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor] | None
# Ranges of the methods' arguments; `create_method` checks them.
Weight = Annotated[FiniteFloat, Field(ge=0)]
Temperature = Annotated[FiniteFloat, Field(gt=0)]
DropRate = Annotated[float, Field(gt=0, lt=1)]

_METHODS: dict[str, type["Method"]] = {}
_NOT_ARGUMENTS = ("self", "model", "criterion")  # of a method's constructor
NEEDS_INDICES = "needs class indices as targets, but mixup and cutmix make probabilities of them"
# Of methods with a term that is not at its minimum when two predictions agree, but at values of the softmax.
NEEDS_SOFTMAX = "sets the softmax's probabilities, but binary cross-entropy trains a sigmoid for each class"


class Hints:
    """What timm's optimizers ask a network, for a module with the network in it."""

    def no_weight_decay(self: Any) -> set[str]:
        """Names of the parameters that the network keeps out of weight decay."""
        model, place = self._network()
        return {f"{place}{name}" for name in getattr(model, "no_weight_decay", set)()}

    def group_matcher(self: Any, coarse: bool = False) -> Callable[[str], int]:
        """Layer numbers for layer-wise learning rates. What the method adds counts as the last layer."""
        model, place = self._network()
        layers = layers_of(model, coarse)
        last = max(layers.values(), default=0)
        return lambda name: layers.get(name.removeprefix(place), last)

    def _network(self: Any) -> tuple[nn.Module, str]:
        model: nn.Module = getattr(self, "method", self).model
        return model, next(f"{name}." for name, module in self.named_modules() if module is model)


def layers_of(model: nn.Module, coarse: bool = False) -> dict[str, int]:
    """The number of the layer of each parameter, by the network's ``group_matcher``; nothing if it has none."""
    network: Any = model
    if not hasattr(model, "group_matcher"):
        return {}
    layers: dict[str, int] = group_parameters(model, network.group_matcher(coarse=coarse), reverse=True)
    return layers


class Method(Hints, nn.Module):
    """A training method: the network, the criterion, and one forward pass that returns the loss.

    A contributor subclasses this, sets `segments`, writes `forward` and registers the class with `register_method`.
    `MethodTask` does everything else: DDP, compile, EMA, checkpoints, export and timm's train.py.

    Args:
        model: the plain classifier; its ``state_dict`` is what is exported.
        criterion: loss of logits ``[B, C]`` and class indices ``[B]`` or probabilities ``[B, C]``; cross-entropy if
            None.

    Attributes:
        segments: the roles of the batch's parts. A batch is the segments one after another, B images each.
        couples: whether the loader has to put at least two images of each class into a batch.
        passes: passes of one segment (B images) through a network's body in a step, (with gradient, without).
        refuses: what the method can't be combined with (``mixup``, ``bce``, or an add-on's name), and why.
        only_criterion: whether the loss is the criterion's alone.
        classifier: the classifier its network needs, see `create_model`.
        needs_epoch: whether `begin_epoch` has to be called, which sets `epoch`; timm's train.py does not call it.
        replicated: submodules whose buffers are equal on all processes anyway, so DDP need not send them.
    """

    segments: tuple[str, ...] = ("anchor",)
    couples: bool = False
    passes: tuple[int, int] = (1, 0)
    refuses: Mapping[str, str] = {}
    only_criterion: ClassVar[bool] = False
    replicated: tuple[str, ...] = ()
    classifier: ClassVar[str] = "linear"
    needs_epoch: ClassVar[bool] = False
    name: ClassVar[str] = ""

    def __init__(self, model: nn.Module, criterion: Criterion = None) -> None:
        super().__init__()
        self.model = model
        tap_classifier(model)  # now, because a hook that is registered during compilation breaks the graph
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        self._begun = False
        self.register_forward_pre_hook(_check_call, with_kwargs=True)

    def check_call(self, input: Tensor, target: Tensor) -> None:
        """Refuses an ordinary batch for a method with pairs or views, and a method that was not told the epoch.

        On a GPU only in the first step, because it waits.
        """
        first, self._begun = not self._begun, True
        if target.is_meta or not (first or target.is_cpu):
            return
        if self.needs_epoch and self.training and int(getattr(self, "epoch", 0)) < 0:
            raise SkdError(
                f"{self.name} needs the epoch: call task.method.begin_epoch(epoch, epochs) before each, counted from 0"
            )
        if len(input) != len(target) or len(target) % len(self.segments):
            return  # `split` says what is wrong
        anchors, *others = target.chunk(len(self.segments))
        if not all(torch.equal(anchors, labels) for labels in others):
            raise SkdError(
                f"a batch for {self.name} is {' | '.join(self.segments)}, of the same classes in the same order, but "
                "the parts' labels differ; take make_loader(..., segments=task.method.segments), or a method with "
                'anchors only (cs_kd with pairing="bank"); data.mixup.mix_segments mixes the parts alike'
            )

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One training step's forward.

        Args:
            input: ``[S * B, 3, H, W]``, S segments of B images.
            target: ``[S * B]`` class indices or ``[S * B, C]`` probabilities.

        Returns:
            ``loss`` (a scalar with gradient), ``output [B, C]`` and ``features [B, D]`` of the anchors, and one scalar
            per loss term for the log.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before the first step of an epoch, counted from 0, and again when a run is resumed within it."""

    @property
    def step_cost(self) -> float:
        """A step's cost relative to a cross-entropy step, if a backward pass costs two forward passes."""
        with_gradient, without = self.passes
        return (3 * with_gradient + without) / 3

    def split(self, input: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs and the targets of each segment."""
        parts = len(self.segments)
        if input.shape[0] % parts or target.shape[0] != input.shape[0]:
            raise ValueError(
                f"a batch for method {self.name!r} has the segments {self.segments}, B images and targets each; "
                f"got {input.shape[0]} images and {target.shape[0]} targets"
            )
        return list(input.chunk(parts)), list(target.chunk(parts))

    def anchor_forward(self, input: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The forward pass with gradient: ``output`` and ``features`` of the result, and the logits in float32.

        Add-ons reach the classifier through it, so call it first, and once. The first images must be the anchors.
        """
        features, logits = forward_with_features(self.model, input)
        return {"output": logits, "features": features}, full_precision(logits)

    def class_indices(self, target: Tensor) -> Tensor:
        """The target, for a method that refuses mixup: an error if it has probabilities."""
        if target.ndim != 1:
            raise SkdError(self.refuses["mixup"])
        return target


def _check_call(method: Any, args: Any, kwargs: Any) -> None:
    if not torch.compiler.is_compiling():  # `MethodTask` checks before a compiled step
        method.check_call(*args, **kwargs)


class AddOn(Method):
    """A method that is added to another one, its `base`: it has the base's batch, and refuses what the base refuses."""

    def __init__(self, model: nn.Module, criterion: Criterion, base: str, base_args: dict[str, Any] | None) -> None:
        super().__init__(model, criterion)
        self.base = create_method(base, model, criterion, **(base_args or {}))
        if self.name in self.base.refuses:
            raise SkdError(f"{self.name} can't be added to {base}: {self.base.refuses[self.name]}")
        self.segments, self.couples, self.passes = self.base.segments, self.base.couples, self.base.passes
        self.refuses = {**self.base.refuses, **self.refuses}
        # The base's network is no submodule of it: safetensors and accelerate refuse, or lose, what is saved twice.
        del self.base.model
        self.base.__dict__["model"] = model

    def check_call(self, input: Tensor, target: Tensor) -> None:
        """The base's check."""
        self.base.check_call(input, target)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.base.begin_epoch(epoch, epochs)


def register_method(name: str) -> Callable[[M], M]:
    """Class decorator: makes a `Method` available under `name`."""

    def register(cls: M) -> M:
        if name in _METHODS and _METHODS[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"method {name!r} is already registered by {_METHODS[name].__qualname__}")
        cls.name = name  # type: ignore[attr-defined]  # M is bound to type, not type[Method], to keep the subclass
        _METHODS[name] = cls
        return cls

    return register


def get_method(name: str) -> type[Method]:
    """The method class registered under `name`; the error for an unknown name suggests the nearest known one."""
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def all_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method, and of its base, with the defaults filled in."""
    parameters = inspect.signature(get_method(name).__init__).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key not in _NOT_ARGUMENTS}
    found = defaults | dict(arguments)
    if "base" in found:
        found["base_args"] = all_arguments(found["base"], found["base_args"] or {})
    return found


def create_method(name: str, model: nn.Module, criterion: Criterion = None, **arguments: Any) -> Method:
    """Builds a method after checking every argument against the constructor's type hints."""
    cls = get_method(name)
    _check_criterion(cls, criterion)
    checked = check_arguments(cls.__init__, arguments, what=f"method {name!r}", skip=_NOT_ARGUMENTS)
    return cls(model, criterion, **checked)


def _check_criterion(cls: type[Method], criterion: Criterion) -> None:
    """Refuses binary cross-entropy where it means nothing, or where its size would silence it."""
    if not isinstance(criterion, BinaryCrossEntropy | nn.BCEWithLogitsLoss):
        return
    if "bce" in cls.refuses:
        raise SkdError(cls.refuses["bce"])
    if not cls.only_criterion and not getattr(criterion, "sum_classes", False):
        raise SkdError(
            f"{type(criterion).__name__} averages over the classes, so the other terms of {cls.name} would outweigh it "
            "as many times as there are classes; sum it: timm's BinaryCrossEntropy(sum_classes=True), its train.py's "
            "--bce-sum, or a recipe's loss=bce, which does"
        )
