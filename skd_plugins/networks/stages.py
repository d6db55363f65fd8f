"""The four stages of a convolutional network: their outputs, and the rest of the network after one of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.errors import SkdError

STAGES = ("layer1", "layer2", "layer3", "layer4")  # of timm's, torchvision's and the papers' ResNets
_DENSENET = tuple(f"features.denseblock{number}" for number in (1, 2, 3, 4))  # timm's and torchvision's


def stage_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that give the four stages' outputs, in order; timm's ``feature_info`` lists others'."""
    names = {name for name, _ in model.named_modules()}
    for known in (STAGES, _DENSENET):
        if names.issuperset(known):
            return known
    info: Any = getattr(model, "feature_info", None) or ()
    listed = tuple(entry["module"] for entry in info if entry["module"] in names)
    if len(listed) < 4:
        raise SkdError(
            f"{type(model).__name__} has no four stages (neither layer1 to layer4, nor features.denseblock1 to 4, nor "
            "timm's feature_info); use a network that has them, such as a ResNet, and wrap or compile the task instead"
        )
    return listed[-4:]


def stage_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(channels, side) of each stage's output, for an input of 256 pixels or the network's own size."""
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
        raise SkdError(
            f"the stages of {type(model).__name__} can't be measured: {reason}; use another network, such as a ResNet"
        )
    sides = [shape[2] for shape in shapes if len(shape) == 4 and shape[2] == shape[3]]
    if len(sides) < 4 or any(before % after for before, after in pairwise(sides)):
        raise SkdError(
            f"the stages of {type(model).__name__} give {', '.join(str(list(shape)) for shape in shapes)}, not maps "
            "[B, C, H, W] each a whole number of times smaller; use a network with such stages, such as a ResNet"
        )
    return [(shape[1], shape[2]) for shape in shapes]


def _shapes(model: nn.Module, names: Sequence[str], size: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Shapes of the modules' outputs, found on the meta device, where nothing is computed."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: torch.empty_like(value, device="meta") for name, value in tensors}
    taps = [StageTap(model, name) for name in names]
    try:
        with torch.no_grad(), watching(*taps), torch.device("meta"):
            functional_call(model, state, (torch.empty(2, *size),))
        return [tuple(tap.take().shape) for tap in taps]
    finally:
        for tap in taps:
            tap.handle.remove()


class StageTap:
    """Keeps the first output of the network's module `name` while `watching`.

    The hook stays on the module: adding and removing it in every step would make torch.compile recompile.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.active = False
        self.seen: Tensor | None = None
        self.name = name
        self.handle = model.get_submodule(name).register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """The hook."""
        if self.active and self.seen is None:
            self.seen = output

    def take(self) -> Tensor:
        """Hands over the output."""
        seen, self.seen = self.seen, None
        if seen is None:
            raise SkdError(f"the network does not use its module {self.name!r} (timm's don't with grad checkpointing)")
        return seen


@contextmanager
def watching(*taps: StageTap) -> Iterator[None]:
    """Makes the taps keep their modules' outputs; `StageTap.take` gets them."""
    for tap in taps:
        tap.active, tap.seen = True, None
    try:
        yield
    finally:
        for tap in taps:
            tap.active = False


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it exchanges forward methods, which can't be traced
def resume_after(model: nn.Module, stage: str, maps: Tensor) -> Tensor:
    """Runs the rest of a network on the outputs `maps` ``[R, c, h, w]`` of its module `stage`; logits ``[R, C]``.

    All earlier modules run as the identity. In training mode BatchNorm normalises with the statistics of `maps` and
    leaves its running statistics alone.
    """
    before: list[nn.Module] = []  # on each level of the stage's name, the modules defined earlier
    parent = model
    for part in stage.split("."):
        children = dict(parent.named_children())
        before += list(children.values())[: list(children).index(part)]
        parent = children[part]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for module in (*before, parent):
        module.forward = lambda input, *args, **kwargs: input  # takes precedence over the class's method
    for norm in norms:
        norm.track_running_stats = norm.track_running_stats and not norm.training
    try:
        logits: Tensor = model(maps)
        return logits
    finally:
        for module in (*before, parent):
            del module.forward
        for norm, value in zip(norms, tracked, strict=True):
            norm.track_running_stats = value


@torch.no_grad()
def check_resumable(model: nn.Module, stage: str) -> None:
    """Raises SkdError unless `resume_after` and the network itself agree on two small images."""
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
        tap.handle.remove()
        for module, training in modes:
            module.training = training
    if not fine:
        raise SkdError(
            f"{type(model).__name__} can't be continued after {stage!r}: its forward does more than run its parts in "
            "order; use position='head', or a ResNet"
        )
