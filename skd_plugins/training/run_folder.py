"""A run's folder: checks at the start, ``recipe.json``, and the log."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..common.environment import environment
from ..common.errors import SkdError
from ..common.files import atomic, jsonable, write_text
from ..common.locks import only_one
from ..recipe import Recipe, load_recipe
from ..weights import checkpoint


def open_run(
    accelerator: Accelerator, recipe: Recipe, run: Path, data: Path, resume: bool, lock: ExitStack
) -> dict[str, Any] | None:
    """Checks the run's folder, writes ``recipe.json``, and returns the checkpoint to continue from, if there is one.

    `lock` then holds the folder, so that the same training cannot be started twice.
    """
    message: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            lock.enter_context(only_one(run))
            _check_run(recipe, run, resume)
            run.mkdir(parents=True, exist_ok=True)
            if not (run / "last.pt").exists():
                record = recipe.to_json() | {"environment": environment(data, accelerator.num_processes)}
                write_text(run / "recipe.json", json.dumps(record, indent=1) + "\n")
        except SkdError as error:
            message = [str(error)]
        except OSError as error:
            message = [f"can't write to {run}: {error}"]
    broadcast_object_list(message)
    if message[0]:
        raise SkdError(message[0])
    state = checkpoint.load(run / "last.pt") if resume and (run / "last.pt").exists() else None
    # On machines with different folders the processes would train different networks.
    steps = gather_object([state["step"] if state else 0])
    if len(set(steps)) > 1:
        raise SkdError(
            f"the processes find checkpoints of different steps in {run} ({', '.join(map(str, steps))}, 0 for none): "
            "--out has to be one folder that all machines share"
        )
    return state


# Fields that may change when a run is continued, because its result does not depend on them.
_HARMLESS = {"epochs", "max_steps", "workers", "eval_batch_size", "trackers", "log_every", "save_every", "save_minutes",
             "validate_every", "skip_broken", "compile", "timeout_minutes"}  # fmt: skip


def _check_run(recipe: Recipe, run: Path, resume: bool) -> None:
    if not (run / "last.pt").exists():
        kept = sorted(path.name for path in run.glob("*.pt"))
        if kept:
            raise SkdError(
                f"{run} has {', '.join(kept)}, but no last.pt to continue from; a new run would replace them: move "
                "them away, or give another --out, name or seed"
            )
        return
    if not resume:
        raise SkdError(f"{run} holds a run already; continue it with --resume, or give another --out, name or seed")
    old, new = load_recipe(run / "recipe.json").to_json(), recipe.to_json()
    changed = [name for name in new if name not in _HARMLESS and old[name] != new[name]]
    if changed:
        what = ", ".join(f"{name} was {old[name]!r}, is {new[name]!r}" for name in changed)
        raise SkdError(f"{run} can't be continued with another recipe ({what})")


def check_same_data(state: dict[str, Any], card: dict[str, Any], steps_per_epoch: int, run: Path) -> None:
    """Refuses a checkpoint that was trained on other data."""
    if state["card"]["classes"] != card["classes"]:
        raise SkdError(f"{run} was trained on data with other classes; continue it with the data it began with")
    if state["steps_per_epoch"] != steps_per_epoch:
        raise SkdError(
            f"{run} was trained with {state['steps_per_epoch']} steps an epoch, there would be {steps_per_epoch} now; "
            "continue it with the data and the number of processes it began with"
        )


class RunLog:
    """``metrics.jsonl`` and accelerate's trackers; only the first process writes."""

    def __init__(self, accelerator: Accelerator, path: Path, step: int) -> None:
        self.accelerator, self.path, self.file = accelerator, path, None
        if accelerator.is_main_process:
            kept = _lines_until(path, step) if path.exists() else []
            with atomic(path) as part:  # a full disk does not lose the earlier log
                part.write_text("".join(kept))
            self.file = path.open("a", buffering=1)

    def write(self, event: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Writes a line, and the trackers' curves."""
        if self.file is None:
            return
        try:
            line = jsonable({"event": event, "step": step, "epoch": epoch, **values})
            self.file.write(json.dumps(line, allow_nan=False) + "\n")
            self.accelerator.log({f"{event}/{key}": value for key, value in values.items()}, step=step)
        except OSError as error:
            raise SkdError(
                f"can't write {self.path} or a tracker's file: {error}; make room, then continue with --resume"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines up to the checkpoint's step; the continuation logs later ones again."""
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError):  # a line that was cut short when the process was killed
            break
        kept.append(line)
    return kept
