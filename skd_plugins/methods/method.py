"""What every method is: one module that owns the network and computes the whole training step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..common.errors import SkdError, unknown
from ..common.typed import check_arguments
from ..networks.features import forward_with_features, tap_classifier
from .losses import full_precision

M = TypeVar("M", bound=type)
_METHODS: dict[str, type[Method]] = {}
NEEDS_INDICES = "needs class indices as targets, but mixup and cutmix make probabilities of them"


class Method(nn.Module):
    """A training method: the network, the criterion, and one forward pass that returns the loss.

    A contributor subclasses this, sets `segments`, writes `forward` and registers the class with
    `register_method`. Everything else (DDP, compile, EMA, checkpoints, export, timm's train.py) is `MethodTask`'s.

    Args:
        model: the plain classifier; its ``state_dict`` is what is exported.
        criterion: loss of ``(logits [B, C], target)``; cross-entropy when None. Takes class indices ``[B]`` or
            probabilities ``[B, C]``.

    Attributes:
        segments: the roles of the batch's parts. A batch is the segments one after another, B images each.
        couples: whether the loader has to put at least two images of each class into a batch.
        passes: passes of one segment (B images) through a network's body in a step, (with gradient, without).
        refuses: what it can't be combined with (``mixup``, the name of an add-on), and why.
        classifier: the classifier its network needs, see `create_model`.
        needs_epoch: whether `begin_epoch` has to be called; timm's train.py does not.
        replicated: its submodules that `begin_epoch` makes equal on all processes. DDP leaves their buffers alone,
            which it would otherwise send around in every step.
        name: the name it is registered under.
    """

    segments: tuple[str, ...] = ("anchor",)
    couples: bool = False
    passes: tuple[int, int] = (1, 0)
    refuses: Mapping[str, str] = {}
    classifier: ClassVar[str] = "linear"
    needs_epoch: ClassVar[bool] = False
    replicated: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = ""

    def __init__(self, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.model = model
        tap_classifier(model)  # now, since hooks that are set while a step is compiled would interrupt its graph
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One training step's forward.

        Args:
            input: ``[S * B, 3, H, W]``, S segments of B images.
            target: ``[S * B]`` class indices or ``[S * B, C]`` probabilities.
            expand: used by add-ons, see `anchor_forward`.

        Returns:
            ``loss`` (a scalar with gradient), ``output [B, C]`` and ``features [B, D]`` of the anchors, one scalar per
            loss term for the log, and ``extra [k * B, C]`` if `expand` asked for more rows.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Told before an epoch's first step, and again when a run is resumed within it.

        Args:
            epoch: counted from 0.
            epochs: of the whole training.
        """
        for child in self.children():
            if isinstance(child, Method):  # an add-on's base
                child.begin_epoch(epoch, epochs)

    @property
    def step_cost(self) -> float:
        """A step's cost in units of cross-entropy's, counted: a forward pass is 1, a backward pass 2.

        Only passes through the body count; heads, losses and the loading of further segments do not.
        """
        with_gradient, without = self.passes
        return (3 * with_gradient + without) / 3

    def split(self, input: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The batch's segments. Raises ValueError when the batch does not divide into them."""
        parts = len(self.segments)
        if input.shape[0] % parts or target.shape[0] != input.shape[0]:
            raise ValueError(
                f"a batch for method {self.name!r} has the segments {self.segments}, B images and targets each; "
                f"got {input.shape[0]} images and {target.shape[0]} targets"
            )
        return list(input.chunk(parts)), list(target.chunk(parts))

    def anchor_forward(
        self, input: Tensor, expand: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The forward pass with gradient.

        Args:
            input: ``[B, 3, H, W]``.
            expand: maps the pooled features ``[B, D]`` to ``[(1 + k) * B, D]``, of which the first B rows are the
                features themselves. The classifier is applied to all of them in one call.

        Returns:
            ``(out, logits)``: the common entries of the result, and the anchors' logits ``[B, C]`` in float32.
        """
        features, logits = forward_with_features(self.model, input, expand)
        # Losses are computed in float32 whatever autocast chose for the network.
        output, extra = logits[: len(features)], logits[len(features) :]
        out = {"output": output, "features": features}
        if expand is not None:
            out["extra"] = full_precision(extra)
        return out, full_precision(output)


def class_indices(target: Tensor, why: str) -> Tensor:
    """The target as class indices ``[B]``; probabilities are refused, with the reason `why`."""
    if target.ndim != 1:
        raise SkdError(f"{why} {NEEDS_INDICES}")
    return target


def create_base(add_on: str, base: str, model: nn.Module, criterion: Any, arguments: dict[str, Any] | None) -> Method:
    """The method that an add-on is added to; raises `SkdError` with the reason if it refuses that."""
    method = create_method(base, model, criterion, **(arguments or {}))
    if add_on in method.refuses:
        raise SkdError(f"{add_on} can't be added to {base}: {method.refuses[add_on]}")
    return method


def gather_rows(tensor: Tensor) -> Tensor:
    """All processes' rows ``[n, ...]``, in rank order; the numbers of rows may differ. Without gradient."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        gathered: Tensor = _gather(tensor)
        return gathered
    return tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]  # traced, the collectives would break the graph and be reported as never waited for
def _gather(tensor: Tensor) -> Tensor:
    sizes = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    longest = max(int(size) for size in sizes)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: int(size)] for rows, size in zip(gathered, sizes, strict=True)])


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
    """The method class registered under `name`; raises `SkdError` with the nearest known name."""
    try:
        return _METHODS[name]
    except KeyError:
        raise unknown("method", name, _METHODS) from None


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def create_method(
    name: str, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor] | None = None, **arguments: Any
) -> Method:
    """Builds a method after checking every argument against the constructor's type hints."""
    cls = get_method(name)
    checked = check_arguments(cls.__init__, arguments, what=f"method {name!r}", skip=("self", "model", "criterion"))
    return cls(model, criterion, **checked)


def method_summary(name: str) -> str:
    """First line of the method's docstring."""
    return (inspect.getdoc(get_method(name)) or "").splitlines()[0]


def at_least(value: float, low: float, what: str, *, strict: bool = False) -> float:
    """`value` if it is a finite number above `low`; raises `SkdError` that names `what` otherwise."""
    if not (value > low or (value == low and not strict)) or value == float("inf"):
        raise SkdError(f"{what} must be {'above' if strict else 'at least'} {low:g}, got {value:g}")
    return value


def rate_of_dropout(drop_rate: float, what: str) -> float:
    """`drop_rate` if it is above 0 and below 1; raises `SkdError` that names `what` otherwise."""
    if not 0 < drop_rate < 1:
        raise SkdError(f"{what}: drop_rate must be between 0 and 1, got {drop_rate:g}")
    return drop_rate
