"""Runs torchvision's own, unmodified references/classification/train.py with a method injected."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.loss import CrossEntropyLoss
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from ..common.errors import SkdError
from ..common.scripts import Patch, check_script, run_patched
from ..common.typed import parse_assignments
from ..data.mixup import collate_segments
from ..data.order import UNDIVIDED, Division
from ..data.samplers import OrderSampler, whole_batches
from ..methods import Method
from ..methods.probe import probe
from ..methods.task import MethodTask, create_task
from ..networks.create import classifier_names, torchvision_name

_HINT = "get references/classification from https://github.com/pytorch/vision, tag of your torchvision"
_parse_args, _get_model, _save, _load = ArgumentParser.parse_args, torchvision.models.get_model, torch.save, torch.load
_PARTS = "method_parts"  # what a method trains beside the network, as a child of the network


def run_with_method(references: Path, method: str, method_args: Sequence[str], arguments: Sequence[str]) -> None:
    """``skd torchvision-train``."""
    script = references / "train.py"
    run_patched(script, arguments, _Injection(script, method, parse_assignments(method_args)).patches())


class _Injection:
    """Replaces names that train.py uses while it runs.

    * ``parse_args`` keeps the options, and refuses those that the method can't be used with.
    * ``get_model`` keeps the network.
    * ``CrossEntropyLoss``, made between the network and the optimizer, makes the method. From then on the network's
      forward in training mode is the method's, with the batch's targets. It returns the anchors' logits, and the
      criterion the method's loss. Evaluation, EMA, ``state_dict`` and DDP see the plain network.
    * ``DataLoader`` makes training batches of the method's segments and gives the script the anchors' targets.
    * ``torch.save`` and ``torch.load`` add the method's own state to a checkpoint, as ``task_state``, and read it.
    """

    def __init__(self, script: Path, method: str, arguments: dict[str, Any]) -> None:
        self.script, self.method, self.arguments = script, method, arguments
        self.needs = probe(method, arguments, "torchvision's train.py")  # the segments, and what the method refuses
        self.paired = self.needs.couples or len(self.needs.segments) > 1
        if "clean" in self.needs.segments:
            raise SkdError("a 'clean' segment needs two transforms, but torchvision's script has one; use a recipe")
        check_script(script, "torchvision.models.get_model", _HINT)
        self.options = Namespace()
        self.network: nn.Module | None = None
        self.task: MethodTask | None = None
        self.target, self.loss = torch.empty(0), torch.empty(0)  # of the current step

    def patches(self) -> list[Patch]:
        return [
            (sys, "path", [str(self.script.parent), *sys.path]),  # for its own utils, presets, ...
            (ArgumentParser, "parse_args", lambda *args, **kwargs: self.checked(_parse_args(*args, **kwargs))),
            (torchvision.models, "get_model", self.get_model),
            (nn, "CrossEntropyLoss", self.create_criterion),
            (torch.utils.data, "DataLoader", self.create_loader),
            (torch, "save", self.save),
            (torch, "load", self.load),
        ]

    def checked(self, options: Namespace) -> Namespace:
        torchvision_name(options.model)
        data = [("--data-path", Path(options.data_path, half)) for half in ("train", "val")]
        for option, path in [*data, ("--resume", Path(options.resume))]:
            if not path.exists():
                raise SkdError(f"{option}: {path} does not exist")
        if (options.mixup_alpha or options.cutmix_alpha) and "mixup" in self.needs.refuses:
            raise SkdError(f"{self.needs.refuses['mixup']}; leave out --mixup-alpha and --cutmix-alpha")
        if options.ra_sampler and self.needs.couples:
            raise SkdError(f"--ra-sampler would make an image its own partner in {self.method}'s batches; leave it out")
        self.options = options
        return options

    def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
        self.network = _get_model(*args, **kwargs)
        return self.network

    def create_criterion(self, *args: Any, **kwargs: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """The script's criterion in evaluation; in training it gives the loss that the method has computed."""
        nn.CrossEntropyLoss = CrossEntropyLoss  # type: ignore[misc]  # the methods make their own
        criterion = CrossEntropyLoss(*args, **kwargs)
        if self.network is None:
            raise SkdError(f"{self.script} makes its loss before its network; {_HINT}")
        self.task = create_task(self.method, self.network, criterion, **self.arguments)
        self.task.equal_batches = True  # the script's samplers give all processes the same number of images
        self._inject(self.task)

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return self.loss if output.requires_grad else criterion(output, target)

        return loss

    def _inject(self, task: MethodTask) -> None:
        """Makes the network's forward in training mode the method's."""
        network, inside = task.method.model, False
        plain, head = type(network), classifier_names(network)[0]

        def forward(module: nn.Module, input: Tensor) -> Tensor:
            nonlocal inside
            if inside or not module.training:
                output: Tensor = plain.forward(module, input)
                return output
            inside = True
            try:
                result = task(input, self.target.to(input.device))
            finally:
                inside = False
            self.loss = result["loss"]
            output = result["output"]
            return output

        # A subclass and no wrapper, so that keys, parameter groups and the copy that is averaged stay the network's.
        # It names its classifier, since the last linear layer may be one of the method's parts.
        names = {"forward": forward, "get_classifier": lambda module: module.get_submodule(head)}
        network.__class__ = type(plain.__name__, (plain,), names)
        methods = [part for part in task.method.modules() if isinstance(part, Method)]
        children = [child for part in methods for child in part.children() if not isinstance(child, Method)]
        parts = [child for child in children if child is not network and any(True for _ in child.parameters())]
        if parts:
            network.add_module(_PARTS, nn.ModuleList(parts))
            network.register_state_dict_post_hook(_leave_out_parts)  # type: ignore[no-untyped-call]  # torch's
            network.register_load_state_dict_post_hook(_expect_no_parts)  # type: ignore[no-untyped-call]

    def create_loader(self, dataset: Any, **options: Any) -> Any:
        sampler = options["sampler"]
        if isinstance(sampler, SequentialSampler) or not getattr(sampler, "shuffle", True):
            return DataLoader(dataset, **options)
        if self.paired:
            self._pair(dataset, options)
        return _TrainingLoader(DataLoader(dataset, **options), self)

    def _pair(self, dataset: Any, options: dict[str, Any]) -> None:
        """Changes a DataLoader's options to whole batches of the method's segments."""
        sampler = options.pop("sampler")
        division, seed = UNDIVIDED, torch.initial_seed()  # another order in every run, as the script's
        if not isinstance(sampler, RandomSampler):  # torch's DistributedSampler, or the script's RASampler
            division, seed = Division(rank=sampler.rank, world=sampler.num_replicas), sampler.seed
        segments = self.needs.segments
        order = whole_batches(
            dataset.targets, options.pop("batch_size"), division=division, segments=segments,
            couples=self.needs.couples, seed=seed, repeats=getattr(sampler, "repetitions", 1),
        )  # fmt: skip
        collate = partial(collate_segments, options["collate_fn"], len(segments))
        options |= {"batch_sampler": OrderSampler(order), "collate_fn": collate}

    def save(self, saved: Any, *args: Any, **kwargs: Any) -> None:
        if self.task is not None and (own := self.task.get_task_state()):
            saved = {**saved, "task_state": own}
        _save(saved, *args, **kwargs)

    def load(self, *args: Any, **kwargs: Any) -> Any:
        # The script saves its arguments and, since it loads weights only, could not read them.
        with torch.serialization.safe_globals([Namespace]):
            loaded = _load(*args, **kwargs)
        if self.task is not None:  # --resume
            self.task.load_task_state(loaded.get("task_state"), strict=not self.options.test_only)
        return loaded


class _TrainingLoader:
    """The script's training loader: the method gets a batch's whole target, the script the anchors'."""

    def __init__(self, loader: "DataLoader[Any]", injection: _Injection) -> None:
        self.loader, self.injection, self.passes = loader, injection, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        options, task = self.injection.options, self.injection.task
        if task is None:
            raise SkdError(f"{self.injection.script} reads its data before it makes network and loss; {_HINT}")
        epoch = options.start_epoch + self.passes  # the script sets start_epoch when it resumes
        self.passes += 1
        if isinstance(self.loader.batch_sampler, OrderSampler):
            self.loader.batch_sampler.set_epoch(epoch)
        task.method.begin_epoch(epoch, options.epochs)
        for input, target in self.loader:
            self.injection.target = target
            yield input, target[: len(target) // len(self.injection.needs.segments)]


def _leave_out_parts(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{_PARTS}.")]:
        del state[key]


def _expect_no_parts(network: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if f"{_PARTS}." not in key]
