"""A run's folder: checks at the start, ``recipe.json``, and the log."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..common.environment import environment
from ..common.errors import SkdError
from ..common.files import atomic, json_text, write_json
from ..common.locks import only_one
from ..common.run_files import read_log, read_recipe
from ..data.beton.file import BetonFile
from ..data.sources import FolderData
from ..methods.method import all_arguments
from ..recipe import Recipe, load_recipe
from ..weights import checkpoint

Data: TypeAlias = BetonFile | FolderData


def open_run(
    accelerator: Accelerator, recipe: Recipe, run: Path, resume: bool, lock: ExitStack
) -> dict[str, Any] | None:
    """Checks the run's folder, and returns the checkpoint to continue from, if there is one.

    `lock` then holds the folder, so that the same training cannot be started twice.
    """
    message: list[str | None] = [None]
    state = None
    if accelerator.is_main_process:
        try:
            lock.enter_context(only_one(run))
            run.mkdir(parents=True, exist_ok=True)
            if _has_run(recipe, run, resume):
                state = checkpoint.load_last(run / "last.pt")
        except SkdError as error:
            message = [str(error)]
        except OSError as error:
            message = [f"can't write to {run}: {error}"]
    broadcast_object_list(message)
    if message[0]:
        raise SkdError(message[0])
    if not accelerator.is_main_process and resume and (run / "last.pt").exists():
        state = checkpoint.load(run / "last.pt")
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


def _has_run(recipe: Recipe, run: Path, resume: bool) -> bool:
    """Whether there is a run to continue; an error if it can't be, or must not be overwritten."""
    found = sorted(path.name for path in run.glob("*.pt"))
    if not found:
        return False
    if not resume:
        raise SkdError(f"{run} holds a run already; continue it with --resume, or give another --out, name or seed")
    if not {"last.pt", checkpoint.PREVIOUS} & set(found):
        raise SkdError(
            f"{run} has no last.pt to continue from, only {', '.join(found)}; copy one of them to last.pt, or give "
            "another --out, name or seed"
        )
    old, new = load_recipe(run / "recipe.json").to_json(), recipe.to_json()
    changed = [name for name in new if name not in _HARMLESS and old[name] != new[name]]
    if changed:
        what = ", ".join(f"{name} was {old[name]!r}, is {new[name]!r}" for name in changed)
        raise SkdError(f"{run} can't be continued with another recipe ({what})")
    return True


def made_with(recipe: Recipe, data: Path, processes: int = 1) -> dict[str, Any]:
    """The record that ``recipe.json`` and cards get: the environment, and all of the method's arguments."""
    return environment(data, processes) | {"method_args": all_arguments(recipe.method, recipe.method_args)}


def write_recipe(recipe: Recipe, run: Path, made: dict[str, Any], *, resumed: bool) -> None:
    """Writes ``recipe.json``; what earlier parts of a continued run were made with stays in a list."""
    path, earlier = run / "recipe.json", []
    if resumed:
        last = read_recipe(path).get("environment", {})
        earlier = [*last.pop("earlier", []), last]
    write_json(path, recipe.to_json() | {"environment": made | ({"earlier": earlier} if earlier else {})})


def fingerprints(accelerator: Accelerator, train: Data, val: Data) -> dict[str, str]:
    """Digests of the data that do not depend on where they lie; the first process reads the files for all."""
    found: list[dict[str, str]] = [{}]
    if accelerator.is_main_process:
        for half, data in (("training", train), ("validation", val)):
            kind = "folder" if isinstance(data, FolderData) else "file"
            found[0][f"{half} {kind}"] = data.fingerprint()
    broadcast_object_list(found)
    return found[0]


def check_same_data(
    state: dict[str, Any], card: dict[str, Any], data: dict[str, str], steps_per_epoch: int, run: Path
) -> None:
    """Refuses a checkpoint that was trained on other data. A file and the folder it was written from are not compared.

    Args:
        data: the `fingerprints`, which checkpoints of earlier versions lack.
    """
    if state["card"]["classes"] != card["classes"]:
        raise SkdError(f"{run} was trained on data with other classes; continue it with the data it began with")
    if state["steps_per_epoch"] != steps_per_epoch:
        raise SkdError(
            f"{run} was trained with {state['steps_per_epoch']} steps an epoch, there would be {steps_per_epoch} now; "
            "continue it with the data and the number of processes it began with"
        )
    for part, before in state.get("data", {}).items():
        if data.get(part, before) != before:
            raise SkdError(
                f"{run} began with another {part} (other images or labels); continue it with the data it began with, "
                "or give another --out"
            )


class RunLog:
    """``metrics.jsonl`` and accelerate's trackers; only the first process writes."""

    def __init__(self, accelerator: Accelerator, path: Path, step: int) -> None:
        self.accelerator, self.path, self.file = accelerator, path, None
        if accelerator.is_main_process:
            kept = [line for line, values in read_log(path) if values.step <= step]  # later ones are logged again
            with atomic(path) as part:  # a full disk does not lose the earlier log
                part.write_bytes(b"".join(kept))
            self.file = path.open("a", buffering=1)

    def write(self, event: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Writes a line, and the trackers' curves."""
        if self.file is None:
            return
        try:
            self.file.write(json_text({"event": event, "step": step, "epoch": epoch, **values}, indent=None))
            self.accelerator.log({f"{event}/{key}": value for key, value in values.items()}, step=step)
        except OSError as error:
            raise SkdError(
                f"can't write {self.path} or a tracker's file: {error}; make room, then continue with --resume"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()
