"""The one adapter between methods and timm: `MethodTask` is a `timm.task.TrainingTask`."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..common.errors import SkdError
from ..common.gather import equal_rows
from ..networks.create import classifiers_of, num_classes_of
from . import Method, create_method
from .method import Criterion, Hints

_GROUPS: list[Any] = []  # process groups, kept until the process ends


class MethodTask(Hints, TrainingTask):
    """Gives a `Method` timm's DDP, compile, EMA and checkpoint handling.

    The trainable module is the method itself, so one DDP forward contains every sub-forward of the step. The plain
    network, with its own keys, is evaluated, averaged, exported, and saved under ``state_dict``. Everything else that a
    method owns (a bank, a peer network) is the task state.

    Attributes:
        equal_batches: whether all processes are known to have the same number of images in the next step, see
            `gather_rows`; only ``adacos`` and CS-KD's bank use it.
        loss_scale: factor of the loss; the terms in the log are without it.
    """

    equal_batches = False
    loss_scale = 1.0

    def __init__(
        self, method: Method, device: torch.device | None = None, dtype: torch.dtype | None = None, verbose: bool = True
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        self.trainable_module: nn.Module = Trainable(method)

    @property
    def method(self) -> Method:
        """The method, without the wrappers of DDP and torch.compile."""
        trainable: Trainable = unwrap_model(self.trainable_module)
        return trainable.method

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.method.check_call(input, target)
        try:
            with equal_rows(self.equal_batches):
                result: dict[str, Tensor] = self.trainable_module(input, target)
        except (IndexError, RuntimeError) as error:  # torch's name neither the label nor the number of classes
            classes = num_classes_of(self.method.model)
            wrong = target[(target < 0) | (target >= classes)] if target.is_cpu and target.ndim == 1 else target[:0]
            if len(wrong) == 0:
                raise
            raise SkdError(f"the target has the label {wrong[0]}, but the network's are 0 to {classes - 1}") from error
        return result if self.loss_scale == 1.0 else result | {"loss": result["loss"] * self.loss_scale}

    def prepare_distributed(self, device_ids: list[Any] | None = None, **ddp_kwargs: Any) -> "MethodTask":
        """Wraps the method in DistributedDataParallel."""
        if self.device.type == "cpu":
            device_ids = None  # timm's train.py always passes its device; DDP refuses a CPU
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        # timm's train.py destroys the group while DDP lives, so another owner has to keep it; see `end_distributed`.
        _GROUPS.append(self.trainable_module.process_group)
        return self

    def end_distributed(self) -> None:
        """Undoes `prepare_distributed`; call it before the process group is destroyed.

        DDP's reducer must not be the last owner of the group. It would destroy the group while it holds Python's lock,
        and wait for a gloo thread that may wait for that lock (seen with torch 2.13 on a loaded machine).
        """
        if isinstance(self.trainable_module, DistributedDataParallel):
            self.trainable_module = self.trainable_module.module
            gc.collect()  # DDP is part of a reference cycle

    def compile(  # type: ignore[override]  # timm's signature, not nn.Module's
        self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any
    ) -> nn.Module:
        """Compiles the step and, for validation, the plain network. Returns the latter.

        Each size of batch gets a graph of its own (``dynamic=False``). torch's default makes one for all sizes when it
        meets an epoch's smaller last batch, and takes that slower one for the full batches too from then on.
        """
        # Without these guards dynamo takes the graph of another network, compiled earlier, for code that the two
        # share, and runs that one's hooks: a `StageTap` then keeps another stage's output.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        options = {"backend": backend, "mode": mode, "dynamic": False} | compile_kwargs
        compile: Callable[..., Any] = partial(torch.compile, **options)
        eval_model: nn.Module = compile(self.method.model)
        self.eval_model = eval_model
        self.trainable_module = compile(self.trainable_module)
        return eval_model

    def setup_ema(
        self, decay: float = 0.9999, use_warmup: bool = False, device: torch.device | None = None, **kwargs: Any
    ) -> nn.Module:
        """Averages the plain network. A copy of the whole method would average shared weights twice."""
        self.trainable_module_ema = ModelEmaV3(
            self.method.model, decay=decay, use_warmup=use_warmup, device=device, **kwargs
        )
        return self.trainable_module_ema

    def update_ema(self, step: int | None = None) -> None:
        if self.has_ema():
            self.trainable_module_ema.update(self.method.model, step=step)

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The plain network (compiled if the task is), or its average."""
        compiled: nn.Module | None = getattr(self, "eval_model_ema" if ema else "eval_model", None)
        if module is None and compiled is not None:
            return compiled
        if module is None:
            module = self.get_trainable_module(ema=ema)
        if module is None:
            return None
        inner = unwrap_model(module)
        return inner.method.model if isinstance(inner, Trainable) else inner

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What the method owns apart from the network. The average has none."""
        if ema:
            return {}
        return {key: value for key, value in self.method.state_dict().items() if not key.startswith("model.")}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        if ema:
            return
        own, given = self.get_task_state().keys(), state or {}
        if strict and own != given.keys():
            problems = {"missing": sorted(own - given.keys()), "unexpected": sorted(given.keys() - own)}
            texts = [f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in problems.items() if keys]
            raise SkdError(
                f"the checkpoint's task state does not fit method {self.method.name!r} ({'; '.join(texts)}); "
                "continue with the method that it was trained with"
            )
        self.method.load_state_dict({key: given[key] for key in own & given.keys()}, strict=False)

    def get_clip_parameters(self, exclude_head: bool = False) -> Iterator[nn.Parameter] | list[nn.Parameter]:
        if not exclude_head:
            return self.method.parameters()
        head = {id(p) for part in classifiers_of(self.method.model) for p in part.parameters()}
        return [parameter for parameter in self.method.parameters() if id(parameter) not in head]


class Trainable(Hints, nn.Module):
    """The method as `MethodTask` trains it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        # DDP's name for it. When the module is compiled, torch puts "_orig_mod." before the names.
        self._ddp_params_and_buffers_to_ignore = [
            f"{prefix}method.{name}" for prefix in ("", "_orig_mod.") for name in _replicated(method)
        ]

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        result: dict[str, Tensor] = self.method(input, target)
        return result


def _replicated(method: Method) -> list[str]:
    """Names of the buffers in the replicated submodules of a method and of its base."""
    parts = [(place, part) for place, part in method.named_modules() if isinstance(part, Method)]
    folders = [f"{place}.{name}".lstrip(".") for place, part in parts for name in part.replicated]
    return [f"{folder}.{key}" for folder in folders for key, _ in method.get_submodule(folder).named_buffers()]


def create_task(
    name: str,
    model: nn.Module,
    criterion: Criterion = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    verbose: bool = True,
    **hparams: Any,
) -> MethodTask:
    """A `timm.task.TrainingTask` that trains `model`, a plain classifier, with the method `name`.

    Args:
        criterion: loss of ``(logits [B, C], target)``; cross-entropy when None.
        device: the model's when None.
        hparams: arguments of the method, checked against its constructor's type hints.
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if isinstance(criterion, nn.Module):
        criterion = criterion.to(device=device)
    method = create_method(name, model, criterion, **hparams).to(device=device)
    return MethodTask(method, device=device, dtype=dtype, verbose=verbose)
