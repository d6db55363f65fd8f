"""The four stages of a convolutional network: what they give, and the network from one of them on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.errors import SkdError

STAGES = ("layer1", "layer2", "layer3", "layer4")
_KNOWN = (
    STAGES,  # timm's and torchvision's ResNets, the papers' CIFAR ResNets
    tuple(f"features.denseblock{number}" for number in (1, 2, 3, 4)),  # timm's and torchvision's DenseNets
)


def stage_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose outputs are the four stages', in order.

    They are found by name (``layer1`` to ``layer4``, ``features.denseblock1`` to ``4``), else they are the last four
    that timm's ``feature_info`` lists.

    Raises:
        SkdError: the network has none.
    """
    names = {name for name, _ in model.named_modules()}
    for known in _KNOWN:
        if names.issuperset(known):
            return known
    info: Any = getattr(model, "feature_info", None) or ()
    listed = tuple(entry["module"] for entry in info if entry["module"] in names)
    if len(listed) < 4:
        raise SkdError(
            f"{type(model).__name__} has no four stages (neither layer1 to layer4, nor features.denseblock1 to 4, nor "
            "timm's feature_info); use a network that has, a ResNet say"
        )
    return listed[-4:]


def stage_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(channels, side) of each stage's output, for an input of 256 pixels or the network's own size.

    Nothing is computed: it runs on the meta device.

    Raises:
        SkdError: the stages do not give maps ``[B, C, H, W]`` that get smaller.
    """
    names = stage_modules(model)
    own_size = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    reason = ""
    for size in ((3, 256, 256), own_size):  # some networks take one size only
        try:
            shapes = _shapes(model, names, size)
            break
        except Exception as error:
            reason = str(error)
    else:
        raise SkdError(f"the stages of {type(model).__name__} can't be found out: {reason}")
    sides = [shape[2] for shape in shapes if len(shape) == 4 and shape[2] == shape[3]]
    if len(sides) < 4 or any(before % after for before, after in pairwise(sides)):
        raise SkdError(
            f"the stages of {type(model).__name__} give {', '.join(str(list(shape)) for shape in shapes)}, not maps "
            "[B, C, H, W] each a whole number of times smaller; use a network with such stages, a ResNet say"
        )
    return [(shape[1], shape[2]) for shape in shapes]


def _shapes(model: nn.Module, names: Sequence[str], size: tuple[int, int, int]) -> list[tuple[int, ...]]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(value, device="meta") for name, value in tensors}
    taps = [StageTap(model, name) for name in names]
    try:
        with torch.no_grad(), watching(*taps), torch.device("meta"):
            functional_call(model, state, (torch.empty(2, *size),))
        return [tuple(tap.take().shape) for tap in taps]
    finally:
        for tap in taps:
            tap.remove()


class StageTap:
    """Sees a module's first output while `watching`.

    The hook stays on the module: one that comes and goes with every step would make torch.compile start anew each time.

    Args:
        model: the network.
        name: the module's name in it.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.active = False
        self.seen: Tensor | None = None
        self.name = name
        self._handle = model.get_submodule(name).register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """The hook."""
        if self.active and self.seen is None:
            self.seen = output

    def take(self) -> Tensor:
        """What the module gave; it is not kept."""
        seen, self.seen = self.seen, None
        if seen is None:
            raise SkdError(f"the network does not use its module {self.name!r}")
        return seen

    def remove(self) -> None:
        """Takes the hook off."""
        self._handle.remove()


@contextmanager
def watching(*taps: StageTap) -> Iterator[None]:
    """Makes the taps see what their modules give; `StageTap.take` gets it."""
    for tap in taps:
        tap.active, tap.seen = True, None
    try:
        yield
    finally:
        for tap in taps:
            tap.active = False


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it exchanges forward methods, which can't be traced
def resume_after(model: nn.Module, stage: str, maps: Tensor) -> Tensor:
    """The logits ``[R, C]`` of a network whose module `stage` gave `maps` ``[R, c, h, w]``.

    What comes before runs as the identity. In training mode BatchNorm normalises with the statistics of `maps` and
    leaves its running statistics alone.
    """
    before = _until(model, stage)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for module in before:
        module.forward = _identity  # an instance's attribute comes before its class's method
    for norm in norms:
        norm.track_running_stats = norm.track_running_stats and not norm.training
    try:
        logits: Tensor = model(maps)
        return logits
    finally:
        for module in before:
            del module.forward
        for norm, value in zip(norms, tracked, strict=True):
            norm.track_running_stats = value


@torch.no_grad()
def check_resumable(model: nn.Module, stage: str) -> None:
    """Raises SkdError unless `resume_after` gives what the network itself gives, tried on two small images."""
    parameter = next(model.parameters())
    if parameter.is_meta:
        return
    modes = [(module, module.training) for module in model.modules()]
    tap = StageTap(model.eval(), stage)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator).to(parameter.device, parameter.dtype)
    try:
        with watching(tap):
            expected = model(images)
        fine = torch.allclose(resume_after(model, stage, tap.take()), expected, rtol=1e-4, atol=1e-5)
    except Exception:
        fine = False
    finally:
        tap.remove()
        for module, training in modes:
            module.training = training
    if not fine:
        raise SkdError(
            f"{type(model).__name__} can't be continued after {stage!r}: its forward is more than its parts one after "
            "another; use position='head', or a ResNet"
        )


def _identity(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input


def _until(model: nn.Module, stage: str) -> Sequence[nn.Module]:
    """The modules that run before the end of a stage: on each level of its name, its elder siblings; and itself."""
    before: list[nn.Module] = []
    parent = model
    parts = stage.split(".")
    for level, part in enumerate(parts):
        for name, child in parent.named_children():
            if name == part:
                break
            before.append(child)
        parent = parent.get_submodule(part)
        if level == len(parts) - 1:
            before.append(parent)
    return before
