"""`train`: the only training loop, a straight script on accelerate."""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor

from ..common.environment import environment
from ..common.errors import SkdError
from ..data.find import find_split, resolve_data
from ..data.loader import Loader, open_data
from ..data.mixing import mix_segments
from ..methods import Method
from ..networks.build import check_image_size
from ..recipe import Recipe
from ..weights import checkpoint
from .build import (
    build_mixup,
    build_optimizer,
    build_scheduler,
    build_task,
    check_mixing,
    evaluation_loader,
    training_loader,
)
from .failures import explains
from .process import any_process, collected_signals, seed_step, use_deterministic_algorithms
from .progress import Progress
from .run_folder import RunLog, check_same_data, open_run
from .validation import validate


@explains("; continue with --resume")
def train(recipe: Recipe, *, data: str | None = None, out: str | Path = "runs", resume: bool = False) -> Path:
    """Trains a recipe; under ``accelerate launch`` or ``torchrun`` on all their processes.

    Args:
        recipe: what to train.
        data: folder with ``train.beton`` and ``val.beton``, or with ``train/`` and ``val/``; None or ``digits`` for the
            embedded digits.
        out: the run goes to ``out/NAME/seedN``.
        resume: continue from the run's last checkpoint, exact to the step; on a CPU the result is bit-equal to that of
            a run that was never interrupted. Starts anew where there is none.

    Returns:
        the run's folder: ``last.pt``, ``best.pt``, ``metrics.jsonl``, ``recipe.json``, and ``NAME/`` with TensorBoard's
        files.

    Raises:
        SkdError: bad data, arguments or checkpoint; a loss that is not finite; another process died or hangs.
        SystemExit: after SIGTERM or SIGINT, once a checkpoint is written.
    """
    # ---- processes ---------------------------------------------------------------------------------------------------
    run = Path(out) / recipe.name / f"seed{recipe.seed}"
    accelerator = _accelerator(recipe, run)
    rank, world = accelerator.process_index, accelerator.num_processes
    device = accelerator.device
    if recipe.deterministic:
        use_deterministic_algorithms()

    # ---- data --------------------------------------------------------------------------------------------------------
    with accelerator.main_process_first():  # the embedded digits may have to be written
        folder = resolve_data(recipe.dataset, data)
    seed_step(recipe.seed, 0, 0)  # every process builds the same network
    train_path, val_path = find_split(folder, True), find_split(folder, False)
    val_loader = evaluation_loader(recipe, val_path, rank=rank, world=world, device=device)
    num_classes = recipe.num_classes or val_loader.num_classes
    if not recipe.num_classes and not val_loader.classes:  # without names, one half may lack the last class
        num_classes = max(num_classes, int(open_data(train_path).targets.max()) + 1)

    # ---- network and method ------------------------------------------------------------------------------------------
    task = build_task(recipe, num_classes, device)
    method = task.method
    check_image_size(method.model, recipe.image_size)
    check_mixing(recipe, method)
    train_loader = training_loader(recipe, train_path, method, rank=rank, world=world, device=device)
    _check_classes(train_loader, val_loader, num_classes)
    mixup = build_mixup(recipe, num_classes)
    assert train_loader.order is not None
    steps_per_epoch = train_loader.order.steps
    total_steps = min(recipe.epochs * steps_per_epoch, recipe.max_steps or math.inf)

    # ---- optimizer, schedule, average --------------------------------------------------------------------------------
    optimizer = accelerator.prepare(build_optimizer(recipe, task.get_trainable_module()))
    scheduler = build_scheduler(recipe, optimizer, steps_per_epoch)
    if recipe.ema_decay:
        task.setup_ema(decay=recipe.ema_decay)
    if recipe.compile:
        task.compile()
        if recipe.ema_decay:
            task.compile_ema()
    if world > 1:
        task.prepare_distributed(device_ids=[accelerator.local_process_index])

    # ---- start or resume ---------------------------------------------------------------------------------------------
    step, best, best_epoch = 0, -1.0, -1
    lock = ExitStack()
    state = open_run(accelerator, recipe, run, folder, resume, lock)
    card = _card(recipe, num_classes, train_loader)
    if state is not None:
        check_same_data(state, card, steps_per_epoch, run)
        step, best, best_epoch = state["step"], state["best"], state["best_epoch"]
        task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
        if recipe.ema_decay:
            task.load_checkpoint_state(state["state_dict_ema"], ema=True)
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    if scheduler is not None:
        scheduler.step_update(step)

    def save(names: tuple[str, ...] = ()) -> None:
        """Writes the last checkpoint, from the first process, and gives it further names."""
        if accelerator.is_main_process:
            _check_finite(task.method, step, run)
            values = {
                **task.get_checkpoint_state(),
                **(task.get_checkpoint_state(ema=True) if recipe.ema_decay else {}),
                "optimizer": optimizer.state_dict(),
                **({"scaler": accelerator.scaler.state_dict()} if accelerator.scaler is not None else {}),
                "epoch": step // steps_per_epoch, "step": step, "steps_per_epoch": steps_per_epoch,
                "best": best, "best_epoch": best_epoch, "card": card,
            }  # fmt: skip
            checkpoint.save(values, run / "last.pt", also=names)

    def stop_if_asked(*, saved: bool = False) -> None:
        """Ends the run where a signal has reached one of the processes."""
        if any_process(received, world, device):
            if not saved:
                save()
            log.close()
            lock.close()
            progress.say(f"stopped by signal at step {step}; continue with --resume: {run}")
            task.end_distributed()
            accelerator.end_training()
            raise SystemExit(128 + (received[0] if received else signal.SIGTERM))

    # ---- the loop ----------------------------------------------------------------------------------------------------
    if recipe.trackers:
        accelerator.init_trackers(recipe.name.replace("/", "_"))
    log = RunLog(accelerator, run / "metrics.jsonl", step)
    progress = Progress(enabled=accelerator.is_main_process, total=int(total_steps), start=step, name=recipe.name)
    progress.say(
        f"{recipe.name}: {recipe.method} on {recipe.model}, {train_loader.num_samples} images, "
        f"{steps_per_epoch} steps an epoch, from step {step} to {total_steps}, {world} process(es) on {device}"
    )
    last_saved = time.monotonic()
    with progress, collected_signals() as received:
        while step < total_steps:
            epoch, start = divmod(step, steps_per_epoch)
            train_loader.set_epoch(epoch, start)
            method.begin_epoch(epoch, recipe.epochs)
            weights = train_loader.order.weights(start)
            batches = progress.timed(iter(train_loader))
            sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
            logged = step
            task.train()
            for _ in range(start, steps_per_epoch):
                for micro in range(recipe.grad_accumulation):
                    seed_step(recipe.seed, step + 1, rank * recipe.grad_accumulation + micro)
                    try:
                        input, target = next(batches)
                    except SkdError:  # a broken image, say: what was trained until here is not lost
                        if micro == 0:  # later, BatchNorm has seen a part of the step, which a continuation repeats
                            save()
                        raise
                    if mixup is not None:
                        input, target = mix_segments(mixup, input, target, len(method.segments))
                    last_micro = micro == recipe.grad_accumulation - 1
                    if not recipe.channels_last:  # the loader's always are, and convolutions follow their input
                        input = input.contiguous()
                    with nullcontext() if last_micro else task.no_sync():  # type: ignore[no-untyped-call]  # timm's
                        with accelerator.autocast():
                            result = task(input, target)
                        # Processes and micro-batches may differ in size; weighted, their mean is the step's mean.
                        accelerator.backward(result["loss"] * next(weights))
                    for key, value in result.items():
                        if value.ndim == 0:
                            sums[key] += value.detach() / recipe.grad_accumulation
                if recipe.clip_grad is not None:
                    accelerator.clip_grad_norm_(task.get_clip_parameters(), recipe.clip_grad)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                task.update_ema(step)
                rate = optimizer.param_groups[0]["lr"]
                if scheduler is not None:
                    scheduler.step_update(step)
                progress.step(images=len(target) * world * recipe.grad_accumulation)

                epoch_ends = step % steps_per_epoch == 0 or step == total_steps
                if step % recipe.log_every == 0 or epoch_ends:
                    terms = {key: value.item() / (step - logged) for key, value in sums.items()}
                    wrong = [key for key, value in terms.items() if not math.isfinite(value)]
                    if wrong:
                        raise SkdError(
                            f"the loss is not finite at step {step} (terms: {', '.join(wrong)}); {run / 'last.pt'} is "
                            "from before, if there is one; lower lr, or use precision=bf16 or no"
                        )
                    sums.clear()
                    logged = step
                    log.write("train", step, epoch, terms | {"lr": rate} | progress.rates())
                    progress.show(epoch, terms, rate)
                if not epoch_ends and (world == 1 or step % 10 == 0):  # at its end the epoch is validated first
                    stop_if_asked()
                if not epoch_ends and recipe.save_minutes and time.monotonic() - last_saved > 60 * recipe.save_minutes:
                    save()
                    last_saved = time.monotonic()
                if step == total_steps:
                    break

            # ---- end of the epoch ------------------------------------------------------------------------------------
            batches.close()
            done = step // steps_per_epoch
            names = []
            if done % recipe.validate_every == 0 or step == total_steps:
                metrics = validate(accelerator, task, val_loader, ema=bool(recipe.ema_decay), progress=progress)
                log.write("validate", step, epoch, metrics)
                if metrics["top1"] > best:
                    best, best_epoch = metrics["top1"], epoch
                    names.append("best.pt")
                progress.validated(epoch, metrics)
            if recipe.save_every and done % recipe.save_every == 0 and step % steps_per_epoch == 0:
                names.append(f"epoch{done:04d}.pt")
            save(tuple(names))
            last_saved = time.monotonic()
            if step < total_steps:
                stop_if_asked(saved=True)

    skipped = [set().union(*gather_object([set(loader.skipped)])) for loader in (train_loader, val_loader)]
    if any(skipped):
        train_skipped, val_skipped = map(len, skipped)
        log.write("skipped", step, recipe.epochs, {"train": train_skipped, "val": val_skipped})
        progress.say(f"left out {train_skipped} training and {val_skipped} validation images")
    log.close()
    lock.close()
    task.end_distributed()
    accelerator.end_training()
    progress.say(f"done: {run}")
    return run


def _accelerator(recipe: Recipe, run: Path) -> Accelerator:
    """The processes, as the launcher started them, the precision and the trackers."""
    if not dist.is_initialized():  # accelerate keeps an earlier training's precision for the life of the process
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    available = [tracker.value for tracker in get_available_trackers()]
    for tracker in recipe.trackers:
        if tracker not in available:
            raise SkdError(f"tracker {tracker!r} is unknown or not installed; available: {', '.join(available)}")
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise SkdError("precision=fp16 needs a GPU: its gradients are scaled there only; use precision=bf16 or no")
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.grad_accumulation,
        log_with=list(recipe.trackers) or None,
        project_dir=run,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=recipe.timeout_minutes))],
    )


def _check_classes(train_loader: Loader, val_loader: Loader, num_classes: int) -> None:
    train_data, val_data = train_loader.data, val_loader.data
    if train_loader.classes and val_loader.classes and train_loader.classes != val_loader.classes:
        different = sorted(set(train_loader.classes) ^ set(val_loader.classes))
        raise SkdError(
            f"{train_data.path} and {val_data.path} have different classes: {', '.join(different[:5]) or 'their order'}"
        )
    for loader in (train_loader, val_loader):
        if not loader.fits(num_classes):
            raise SkdError(
                f"{loader.data.path} has {loader.num_classes} classes, but the network would have {num_classes}; "
                "leave num_classes out to take the data's"
            )


def _check_finite(method: Method, step: int, run: Path) -> None:
    """Raises SkdError for weights that are not finite: they would replace good ones in the checkpoint."""
    for name, value in method.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise SkdError(
                f"{name} is not finite after step {step} and is not saved; {run / 'last.pt'} is from before, if there "
                "is one; lower lr, set clip_grad, or use precision=bf16 or no"
            )


def _card(recipe: Recipe, num_classes: int, loader: Loader) -> dict[str, Any]:
    """What has to travel with the weights."""
    return {
        "model": recipe.model, "model_args": recipe.model_args, "num_classes": num_classes, "classes": loader.classes,
        "input_size": [3, recipe.image_size, recipe.image_size], "mean": list(recipe.mean), "std": list(recipe.std),
        "crop_pct": recipe.crop_pct, "interpolation": recipe.interpolation, "color": "RGB", "recipe": recipe.to_json(),
        "environment": environment(Path(loader.data.path.name)),
    }  # fmt: skip
