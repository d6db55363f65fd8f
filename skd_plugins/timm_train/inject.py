"""Runs timm's own, unmodified train.py with a method injected."""

import inspect
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import timm.data
import timm.task
import torch
from timm.data.mixup import FastCollateMixup

from ..common.errors import SkdError
from ..common.scripts import Patch, check_script, run_patched
from ..common.typed import parse_assignments
from ..methods import Method
from ..methods.probe import probe
from ..methods.task import MethodTask, create_task
from ..networks import NETWORKS  # noqa: F401  registers them, so that --model finds them
from ..networks.create import num_classes_of
from .beton_dataset import BetonDataset, find_beton
from .pairs import PairedMixup, paired_loader, paired_order

_logger = logging.getLogger(__name__)
_HINT = "get train.py from https://github.com/huggingface/pytorch-image-models, tag of your timm (1.0.30 or later)"


def run_with_method(script: Path, method: str, method_args: Sequence[str], arguments: Sequence[str]) -> None:
    """``skd timm-train``."""
    injection = _Injection(script, method, parse_assignments(method_args))
    try:
        run_patched(script, arguments, injection.patches())
    except ImportError as error:
        if not (error.name or "").startswith("timm"):
            raise
        raise injection.misfit(str(error)) from error
    if not injection.created_task:
        raise SkdError(f"{script} ended without creating its ClassificationTask, so method {method!r} was not used")


class _Injection:
    """Replaces names that train.py imports from `timm.task` and `timm.data` while it runs.

    * ``ClassificationTask`` makes our task, with the criterion the script chose (its default is ``--smoothing 0.1``).
    * ``create_loader`` gives batches with the method's segments. ``--batch-size`` counts the anchors of a process.
      Methods that need only anchors keep timm's loaders.
    * ``create_dataset`` also opens `.beton` files: ``--data-dir`` is one, or a folder with train.beton and val.beton.
    * ``Mixup`` mixes all segments alike.
    """

    def __init__(self, script: Path, method: str, arguments: dict[str, Any]) -> None:
        self.script, self.method, self.arguments = script, method, arguments
        made = probe(method, arguments, "timm's train.py")
        if any(part.needs_epoch for part in made.modules() if isinstance(part, Method)):
            raise SkdError(f"{method} needs the epoch, which timm's train.py does not tell it; train it with a recipe")
        self.segments, self.couples, self.refuses = made.segments, made.couples, made.refuses
        check_script(script, "timm.task.ClassificationTask", _HINT)
        self.created_task = False
        self.seed = 42  # train.py's default, for a script that does not pass its seed on
        self._largest_label = -1
        self._timm_dataset: Callable[..., Any] = timm.data.create_dataset
        self._timm_loader: Callable[..., Any] = timm.data.create_loader
        self._timm_task: Callable[..., Any] = timm.task.ClassificationTask

    def patches(self) -> list[Patch]:
        naflex = "--naflex-loader makes batches of patches, but the methods take images; leave it out"
        patches: list[Patch] = [
            (timm.data, "create_dataset", self.create_dataset),
            (timm.data, "create_loader", self.create_loader),
            (timm.data, "create_naflex_loader", partial(_refuse, naflex)),
            (timm.task, "ClassificationTask", self.create_task),
        ]
        if len(self.segments) > 1:
            patches.append((timm.data, "Mixup", partial(PairedMixup, len(self.segments))))
        kept = (timm.task.TrainingTask, timm.task.ClassificationTask)
        for name, value in vars(timm.task).items():  # refuses distillation and multi-label
            if inspect.isclass(value) and issubclass(value, timm.task.TrainingTask) and value not in kept:
                reason = f"make {self.script.name} use timm's {name} instead of method {self.method!r}"
                patches.append((timm.task, name, partial(_refuse, f"these arguments {reason}")))
        return patches

    def create_dataset(self, *args: Any, **kwargs: Any) -> Any:
        options = self._bound(self._timm_dataset, args, kwargs)
        if options["is_training"]:
            self.seed = options["seed"]
        if options["name"]:  # not a path: torch/cifar100, hfds/...
            return self._timm_dataset(*args, **kwargs)
        if not options["root"]:
            raise SkdError(f"{self.script.name} needs data: give --data-dir")
        if not Path(options["root"]).exists():
            raise SkdError(f"data path {options['root']} does not exist")
        path = find_beton(options["root"], options["split"])
        if path is None:
            return self._timm_dataset(*args, **kwargs)
        if options["class_map"] or options["input_img_mode"] not in (None, "RGB"):
            raise SkdError(f"{path}: --class-map and --input-img-mode are not available for .beton files")
        return BetonDataset(path, seed=options["seed"])

    def create_loader(self, *args: Any, **kwargs: Any) -> Any:
        options = self._bound(self._timm_loader, args, kwargs)
        dataset, paired = options["dataset"], len(self.segments) > 1 or self.couples
        if isinstance(options["collate_fn"], FastCollateMixup) and "mixup" in self.refuses:
            raise SkdError(f"{self.refuses['mixup']}; leave out --mixup and --cutmix")
        if isinstance(dataset, BetonDataset):
            self._largest_label = max(self._largest_label, int(dataset.data.targets.max()))
            return dataset.loader(options, segments=self.segments, couples=self.couples)
        if not options["is_training"] or not paired:
            return self._timm_loader(*args, **kwargs)
        order = paired_order(options, segments=self.segments, couples=self.couples, seed=self.seed)
        self._largest_label = int(order.targets.max())
        return paired_loader(self._timm_loader, options, order)

    def create_task(self, *args: Any, **kwargs: Any) -> MethodTask:
        options = self._bound(self._timm_task, args, kwargs)
        model, criterion, device = options["model"], options["criterion"], options["device"]
        if isinstance(model, torch.jit.ScriptModule):
            raise SkdError("--torchscript hides the network's classifier from the methods; use --torchcompile")
        if criterion is None:  # since timm 1.0.30 the task can make it, with a function that is not there before
            from timm.task.classification import resolve_classification_loss

            criterion = resolve_classification_loss(None, device, criterion_kwargs=options["criterion_kwargs"])
        classes = num_classes_of(model)
        if self._largest_label >= classes:
            raise SkdError(
                f"the data has the label {self._largest_label}, but the network {classes} classes; give --num-classes"
            )
        verbose, dtype = options["verbose"], options["dtype"]
        task = create_task(self.method, model, criterion, device=device, dtype=dtype, verbose=verbose, **self.arguments)
        task.equal_batches = True  # timm's loaders drop an incomplete last batch
        self.created_task = True
        if verbose:
            settings = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
            _logger.info("skd_plugins: training with method %s(%s)", self.method, settings)
        return task

    def misfit(self, reason: str) -> SkdError:
        """An error for a script of another version of timm."""
        version = timm.__version__
        return SkdError(
            f"{self.script} does not fit the installed timm {version} ({reason}); use train.py of tag v{version}"
        )

    def _bound(self, function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
        try:
            call = inspect.signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise self.misfit(f"{function.__name__}: {error}") from None
        call.apply_defaults()
        return call.arguments


def _refuse(message: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise SkdError(message)
