"""`train`: the only training loop, on accelerate."""

import math
import signal
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..common.errors import SkdError
from ..data.find import find_split, resolve_data
from ..data.loader import Loader, open_data
from ..data.mixup import mix_segments
from ..methods import Method
from ..networks.create import check_image_size
from ..recipe import Recipe
from ..weights import checkpoint
from .failures import explains
from .parts import (
    build_mixup,
    build_optimizer,
    build_scheduler,
    build_task,
    check_mixing,
    class_note,
    clip_gradients,
    evaluation_loader,
    highest_rate,
    training_loader,
)
from .process import any_process, choose_kernels, collected_signals, seed_step, start_accelerator
from .progress import Progress
from .run_folder import RunLog, check_same_data, fingerprints, made_with, open_run, write_recipe
from .validation import validate


@explains("; continue with --resume")
def train(recipe: Recipe, *, data: str | None = None, out: str | Path = "runs", resume: bool = False) -> Path:
    """Trains a recipe; under ``accelerate launch`` or ``torchrun`` on all their processes.

    After SIGTERM, SIGUSR1 or SIGINT it writes a checkpoint and exits.

    Args:
        data: folder with ``train.beton`` and ``val.beton``, or with ``train/`` and ``val/``; None or ``digits`` for the
            embedded digits.
        out: the run goes to ``out/NAME/seedN``.
        resume: continue from the run's last checkpoint, at the exact step; start a new run if there is none. On a CPU
            the result is bit-equal to that of a run that was never interrupted.

    Returns:
        the run's folder: ``last.pt``, ``best.pt``, ``metrics.jsonl``, ``recipe.json``, and ``NAME/`` with TensorBoard's
        files.
    """
    run = Run(recipe, data, Path(out) / recipe.name / f"seed{recipe.seed}", resume)
    with run.progress.bar, collected_signals() as run.received:
        while run.step < run.total_steps:
            epoch = run.train_epoch()
            run.end_epoch(epoch)
    return run.finish()


class Run:
    """One process's view of a training run."""

    def __init__(self, recipe: Recipe, data: str | None, folder: Path, resume: bool) -> None:
        self.recipe, self.folder = recipe, folder
        self.accelerator = start_accelerator(recipe, folder)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        choose_kernels(deterministic=recipe.deterministic)
        with self.accelerator.main_process_first():  # the embedded digits may have to be written
            data_folder = resolve_data(recipe.dataset, data)
        seed_step(recipe.seed, 0, 0)  # every process builds the same network
        self._open_data_and_network(find_split(data_folder, True), find_split(data_folder, False))
        self._build_optimizer()
        self.step, self.best, self.best_epoch = 0, -1.0, -1
        self.lock = ExitStack()
        state = open_run(self.accelerator, recipe, folder, resume, self.lock)
        self._start_or_resume(state)
        if self.accelerator.is_main_process and self.step < self.total_steps:  # a finished run keeps its record
            write_recipe(recipe, folder, made_with(recipe, data_folder, self.world), resumed=state is not None)
        self._start_reporting()

    def _open_data_and_network(self, train_path: Path, val_path: Path) -> None:
        recipe, where = self.recipe, {"rank": self.rank, "world": self.world, "device": self.device}
        self.val_loader = evaluation_loader(recipe, val_path, **where)
        num_classes = recipe.num_classes or self.val_loader.num_classes
        if not recipe.num_classes and not self.val_loader.classes:  # without names, one half may lack the last class
            num_classes = max(num_classes, int(open_data(train_path).targets.max()) + 1)
        self.notes: list[str] = []
        self.task = build_task(recipe, num_classes, self.device, self.notes.append)
        self.method = self.task.method
        check_image_size(self.method.model, *recipe.sides)
        check_mixing(recipe, self.method)
        self.train_loader = training_loader(recipe, train_path, self.method, **where)
        _check_classes(self.train_loader, self.val_loader, num_classes)
        if (mixup := build_mixup(recipe, num_classes)) is not None:
            self.train_loader.mix = partial(mix_segments, mixup, segments=len(self.method.segments))
        assert self.train_loader.order is not None
        self.order = self.train_loader.order
        self.steps_per_epoch = self.order.steps
        self.total_steps = min(recipe.epochs * self.steps_per_epoch, recipe.max_steps or math.inf)
        self.card = _card(recipe, num_classes, self.train_loader)
        self.data = fingerprints(self.accelerator, self.train_loader.data, self.val_loader.data)

    def _build_optimizer(self) -> None:
        recipe, task = self.recipe, self.task
        self.optimizer = self.accelerator.prepare(build_optimizer(recipe, self.method))
        self.scheduler = build_scheduler(recipe, self.optimizer, self.steps_per_epoch)
        if recipe.ema_decay:
            task.setup_ema(decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
        if recipe.compile:
            task.compile()
            task.compile_ema(dynamic=False)
        if self.world > 1:
            # Only the first process's buffers count, in validation and checkpoints, so DDP need not send them.
            task.prepare_distributed([self.device], broadcast_buffers=False, gradient_as_bucket_view=True)

    def _start_or_resume(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            check_same_data(state, self.card, self.data, self.steps_per_epoch, self.folder)
            self.step, self.best, self.best_epoch = state["step"], state["best"], state["best_epoch"]
            try:
                self._load_parts(state)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise SkdError(f"{self.folder / 'last.pt'} is not of this network and optimizer ({reason})") from error
        if self.scheduler is not None:
            self.scheduler.step_update(self.step)

    def _load_parts(self, state: dict[str, Any]) -> None:
        self.task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
        if self.recipe.ema_decay:
            self.task.load_checkpoint_state(state["state_dict_ema"], ema=True)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _start_reporting(self) -> None:
        recipe = self.recipe
        if recipe.trackers:
            wandb = {"dir": self.folder, "config": recipe.to_json()}  # TensorBoard takes no nested values
            self.accelerator.init_trackers(recipe.name, init_kwargs={"wandb": wandb})
        self.log = RunLog(self.accelerator, self.folder / "metrics.jsonl", self.step)
        main = self.accelerator.is_main_process
        self.progress = Progress(enabled=main, total=int(self.total_steps), start=self.step, name=recipe.name)
        self.progress.say(
            f"{recipe.name}: {recipe.method} on {recipe.model}, {self.train_loader.num_samples} images, "
            f"{self.steps_per_epoch} steps an epoch, from step {self.step} to {self.total_steps}, "
            f"{self.world} process(es) on {self.device}"
        )
        for note in (class_note(recipe, self.card["num_classes"]), *self.notes):
            if note:
                self.progress.say(f"note: {note}")
        self.received: list[int] = []  # signals
        # A lambda that holds this run would keep it, its network and its lock alive after an error.
        self.sums: dict[str, Tensor] = defaultdict(partial(torch.zeros, (), device=self.device))  # of the loss terms
        self.logged = self.step
        self.last_saved = time.monotonic()

    def train_epoch(self) -> int:
        """Trains to the end of the epoch, or of the training; returns the epoch."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        self.train_loader.set_epoch(epoch, start)
        self.method.begin_epoch(epoch, self.recipe.epochs)
        weights = self.order.weights(start)
        batches = self.progress.timed(iter(self.train_loader))
        self.sums.clear()
        self.logged = self.step
        last = min((epoch + 1) * self.steps_per_epoch, self.total_steps)
        self.task.train()
        while self.step < last:
            rate = self.train_step(batches, weights)
            if self.step % self.recipe.log_every == 0 or self.step == last:
                self.log_terms(epoch, rate)
            elif self.progress.due():
                self.progress.show(epoch, self.mean_terms(), rate)
            if self.step == last:  # the epoch is validated before the run may stop
                break
            if self.world == 1 or self.step % 10 == 0:
                self.stop_if_asked()
            minutes = self.recipe.save_minutes
            if minutes and time.monotonic() - self.last_saved > 60 * minutes:
                self.save()
        batches.close()
        return epoch

    def train_step(self, batches: Iterator[tuple[Tensor, Tensor]], weights: Iterator[float]) -> float:
        """One optimizer step over all micro-batches; returns the learning rate it was made with."""
        recipe = self.recipe
        self.task.equal_batches = self.order.equal(self.step % self.steps_per_epoch)
        for micro in range(recipe.grad_accumulation):
            seed_step(recipe.seed, self.step + 1, self.rank * recipe.grad_accumulation + micro)
            try:
                input, target = next(batches)
            except SkdError:  # for example a damaged image: keep the training so far
                if micro == 0:  # later, BatchNorm has already seen a part of the step, which a resume repeats
                    self.save()
                raise
            if not recipe.channels_last:  # the loader's batches always are, and convolutions follow their input
                input = input.contiguous()
            last = micro == recipe.grad_accumulation - 1
            with nullcontext() if last else self.task.no_sync():  # type: ignore[no-untyped-call]  # timm's
                with self.accelerator.autocast():
                    result = self.task(input, target)
                # Processes and micro-batches may differ in size; weighted, their mean is the step's mean.
                self.accelerator.backward(result["loss"] * next(weights))
            for key, value in result.items():
                if value.ndim == 0:
                    self.sums[key].add_(value.detach(), alpha=1 / recipe.grad_accumulation)
        clip_gradients(recipe, self.accelerator, self.optimizer, self.task)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.task.update_ema(self.step)
        rate = highest_rate(self.optimizer)
        if self.scheduler is not None:
            self.scheduler.step_update(self.step)
        self.progress.step(images=len(target) * self.world * recipe.grad_accumulation)
        return rate

    def mean_terms(self) -> dict[str, float]:
        """The mean of each loss term since it was logged."""
        return {key: value.item() / (self.step - self.logged) for key, value in self.sums.items()}

    def check_finite(self, what: str, values: dict[str, float]) -> None:
        """Raises SkdError if a value is not finite."""
        wrong = [key for key, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise SkdError(
                f"the {what} is not finite at step {self.step} (terms: {', '.join(wrong)}); "
                f"{self.folder / 'last.pt'} is from before, if there is one; lower lr, or use precision=bf16 or no"
            )

    def log_terms(self, epoch: int, rate: float) -> None:
        """Logs the mean of each loss term since the last call; raises SkdError if one is not finite."""
        terms = self.mean_terms()
        self.check_finite("loss", terms)
        self.sums.clear()
        self.logged = self.step
        self.log.write("train", self.step, epoch, terms | {"lr": rate} | self.progress.rates())
        self.progress.show(epoch, terms, rate)

    def end_epoch(self, epoch: int) -> None:
        """Validates, saves, and stops if a signal has asked for it."""
        done, names = self.step // self.steps_per_epoch, []
        if done % self.recipe.validate_every == 0 or self.step == self.total_steps:
            metrics = validate(self.accelerator, self.task, self.val_loader, self.progress, ema=self.task.has_ema())
            self.check_finite("validation", metrics)
            self.log.write("validate", self.step, epoch, metrics)
            if metrics["top1"] > self.best:
                self.best, self.best_epoch = metrics["top1"], epoch
                names.append("best.pt")
            self.progress.validated(epoch, metrics)
        every = self.recipe.save_every
        if every and done % every == 0 and self.step % self.steps_per_epoch == 0:
            names.append(f"epoch{done:04d}.pt")
        self.save(*names)
        if self.step < self.total_steps:
            self.stop_if_asked(saved=True)

    def save(self, *names: str) -> None:
        """Writes ``last.pt``, from the first process, and gives it further names."""
        if self.accelerator.is_main_process:
            _check_finite(self.method, self.step, self.folder)
            scaler = self.accelerator.scaler
            state = {
                **self.task.get_checkpoint_state(),
                **(self.task.get_checkpoint_state(ema=True) if self.recipe.ema_decay else {}),
                "optimizer": self.optimizer.state_dict(),
                **({"scaler": scaler.state_dict()} if scaler is not None else {}),
                "epoch": self.step // self.steps_per_epoch, "step": self.step, "steps_per_epoch": self.steps_per_epoch,
                "best": self.best, "best_epoch": self.best_epoch, "card": self.card,
                "data": self.data,
            }  # fmt: skip
            checkpoint.save(state, self.folder / "last.pt", also=names)
        self.last_saved = time.monotonic()

    def stop_if_asked(self, *, saved: bool = False) -> None:
        """Saves and exits if a signal has reached one of the processes."""
        if any_process(self.received, self.world, self.device):
            if not saved:
                self.save()
            self.accelerator.wait_for_everyone()  # a launcher ends the first process when another one has ended
            self._close(f"stopped by signal at step {self.step}; continue with --resume: {self.folder}")
            raise SystemExit(128 + (self.received[0] if self.received else signal.SIGTERM))

    def finish(self) -> Path:
        """Reports the images that were left out, and closes the run; returns the run's folder."""
        loaders = self.train_loader, self.val_loader
        skipped = [len(set().union(*gather_object([set(loader.skipped)]))) for loader in loaders]
        if any(skipped):
            self.log.write("skipped", self.step, self.recipe.epochs, dict(zip(("train", "val"), skipped, strict=True)))
            self.progress.say("left out {} training and {} validation images".format(*skipped))
        self._close(f"done: {self.folder}")
        return self.folder

    def _close(self, message: str) -> None:
        self.log.close()
        self.lock.close()
        self.task.end_distributed()
        self.accelerator.end_training()
        self.progress.say(message)


def _check_classes(train_loader: Loader, val_loader: Loader, num_classes: int) -> None:
    if train_loader.classes and val_loader.classes and train_loader.classes != val_loader.classes:
        different = ", ".join(sorted(set(train_loader.classes) ^ set(val_loader.classes))[:5]) or "their order"
        raise SkdError(f"{train_loader.data.path} and {val_loader.data.path} have different classes: {different}")
    for loader in (train_loader, val_loader):
        labels = zlib.crc32(loader.data.targets.tobytes())
        if len(set(gather_object([f"{loader.classes} {labels}"]))) > 1:
            raise SkdError(
                f"{loader.data.path} has other classes or labels on another machine; copy the same files to all"
            )
        if not loader.fits(num_classes):
            raise SkdError(
                f"{loader.data.path} has {loader.num_classes} classes, but the network would have {num_classes}; "
                "leave num_classes out to take the data's"
            )


def _check_finite(method: Method, step: int, run: Path) -> None:
    """Raises SkdError for weights that are not finite: they would replace good ones in the checkpoint."""
    values = {name: value for name, value in method.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()  # waits for the device once
    if not all(finite):
        raise SkdError(
            f"{list(values)[finite.index(False)]} is not finite after step {step} and is not saved; "
            f"{run / 'last.pt'} is from before, if there is one; lower lr, set clip_grad, or use precision=bf16 or no"
        )


def _card(recipe: Recipe, num_classes: int, loader: Loader) -> dict[str, Any]:
    """What has to travel with the weights."""
    return {
        "model": recipe.model, "model_args": recipe.model_args, "num_classes": num_classes, "classes": loader.classes,
        "input_size": [3, recipe.image_size, recipe.image_size], "mean": list(recipe.mean), "std": list(recipe.std),
        "crop_pct": recipe.crop_pct, "interpolation": recipe.interpolation, "color": "RGB", "recipe": recipe.to_json(),
        "environment": made_with(recipe, Path(loader.data.path.name)),
    }  # fmt: skip
