"""``skd study``: methods compared on the same data and seeds."""

import ctypes
import dataclasses
import os
import re
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import skd_plugins

from .. import data as skd_data
from .. import evaluation, training
from ..common.environment import environment
from ..common.errors import SkdError
from ..common.files import write_json
from ..common.meter import tracked
from ..common.run_files import read_metrics
from ..data.find import evaluation_half
from ..evaluation.significance import difference, holm, temperature_scaled
from ..recipe import Recipe, override, replace
from ..training.project import recipe_in

_PR_SET_PDEATHSIG = 1
# key: title, and the factor with which it is printed
COLUMNS = {
    "error": ("error %", 100), "top5_error": ("top-5 error %", 100), "nll": ("NLL", 1), "ece": ("ECE %", 100),
    "scaled_nll": ("NLL, scaled", 1), "scaled_ece": ("ECE, scaled %", 100), "recall_error": ("1 - R@1 %", 100),
}  # fmt: skip


def study(
    recipe: tyro.conf.Positional[Path],
    *,
    data: Path,
    variants: tuple[str, ...] = ("ce", "cs_kd", "sd_dropout"),
    test: Path | None = None,
    seeds: int = 5,
    first_seed: int = 0,
    out: Path = Path("runs/study"),
    jobs: int = 0,
) -> None:
    """Train variants of a recipe with the same seeds; print means, paired differences to the first, and p-values.

    p-values are of paired t-tests, corrected by Holm for the number of variants. Complete runs are not repeated.

    Args:
        recipe: its file.
        data: the data folder.
        variants: "METHOD name=value ...", with arguments of the method or fields of the recipe, for example "cs_kd
            weight=2 lr=0.05". The first is the baseline. "all" is every method with its defaults; it says which ones
            this recipe can't have.
        test: a data folder to report on instead of the validation half, which then only fits the temperature of the
            "scaled" columns (Guo et al. 2017).
        seeds: runs of each variant.
        first_seed: the others follow it. Choose settings with other seeds than those you report.
        out: where runs, study.json and study.md go.
        jobs: runs at a time; 0 for one a core, or one on a machine with a GPU.
    """
    if seeds < 2:
        raise SkdError(f"--seeds is {seeds}, but a difference needs at least 2")
    plans = plans_of(recipe_in(recipe), variants, data)
    if test is not None:
        _check_test(data, test)
    work = [replace(varied, seed=first_seed + seed) for seed in range(seeds) for varied in plans.values()]
    runs = train_and_measure(work, data, test, out, jobs)
    numbers = {name: [run[1] for run in runs[number :: len(plans)]] for number, name in enumerate(plans)}
    summary = summarise(numbers)
    result = {
        "recipe": recipe.stem, "data": str(data), "test": test and str(test), "variants": summary,
        "seeds": list(range(first_seed, first_seed + seeds)), "environment": environment(),
    }  # fmt: skip
    write_json(out / "study.json", result)
    (out / "study.md").write_text(markdown(summary))
    print_table(summary)
    print(f"numbers: {out / 'study.json'}, {out / 'study.md'}")


def plans_of(recipe: Recipe, variants: tuple[str, ...], data: Path) -> dict[str, Recipe]:
    """Each variant's recipe; wrong ones are an error now, not after hours."""
    every = variants == ("all",)
    if every:
        variants = tuple(sorted(map(_variant, skd_plugins.list_methods()), key=lambda variant: variant != "ce"))
    if len(set(variants)) < max(2, len(variants)):
        raise SkdError(f"--variants needs at least two different ones, got {', '.join(variants) or 'none'}")
    known = {field.name for field in dataclasses.fields(Recipe)}
    plans = {}
    for variant in variants:
        texts = []
        for word in variant.split():
            name, assigned, _ = word.partition("=")
            if not assigned:
                word = f"method={word}"
            elif name.partition(".")[0] not in known:
                word = f"method_args.{word}"
            texts.append(word)
        texts.append(f"name={recipe.name}.{re.sub(r'[^A-Za-z0-9_=.-]+', '-', variant)}")
        varied = override(recipe, texts)
        try:
            training.make_plan(varied, data=str(data))
        except SkdError as error:
            if not every or variant == "ce":
                raise
            print(f"left out: {variant}: {error}")
        else:
            plans[variant] = varied
    return plans


def _variant(method: str) -> str:
    """A method with its defaults, on a network with the classifier that it needs."""
    classifier = skd_plugins.get_method(method).classifier
    return method if classifier == "linear" else f"{method} model_args.classifier={classifier}"


def _check_test(data: Path, test: Path) -> None:
    held, reported = (evaluation_half("", str(folder)) for folder in (data, test))
    if held.resolve() == reported.resolve():
        raise SkdError(f"--test {test} has the images that fit the temperature; give others, or leave it out")
    if skd_data.open_data(held).classes != skd_data.open_data(reported).classes:
        raise SkdError(f"--test {test} and --data {data} name or order their classes differently")


def train_and_measure(
    recipes: Sequence[Recipe], data: Path, test: Path | None, out: Path, jobs: int = 0
) -> list[tuple[Path, dict[str, float]]]:
    """Each recipe's run and its numbers. Every run has one thread; complete ones are not repeated.

    What a training prints goes to ``out/NAME/seedN.log``.
    """
    import torch  # the help does not need it

    work = partial(_train_and_measure, data=data, test=test, out=out)
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker) as pool:
            return list(tracked(pool.map(work, recipes), "training", len(recipes)))
    except BrokenProcessPool:
        raise SkdError(f"a training was killed, maybe for lack of memory; --jobs {jobs - 1 or 1} continues") from None


def _begin_worker() -> None:
    import torch  # the help does not need it

    torch.set_num_threads(1)
    # If the study is killed, its trainings save and end too; else they would go on and hold their runs.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _train_and_measure(recipe: Recipe, data: Path, test: Path | None, out: Path) -> tuple[Path, dict[str, float]]:
    log = out / recipe.name / f"seed{recipe.seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            run = training.train(recipe, data=str(data), out=out, resume=True)
            measured = measure(run, data, test)
    except SystemExit:  # stopped by a signal, after a checkpoint; this process must not begin the next run
        os._exit(1)
    except SkdError as error:
        raise SkdError(f"{recipe.name}, seed {recipe.seed}: {error}") from None
    study = parent_process()
    if study is not None and not study.is_alive():  # its end was signalled in a last validation, where nothing stops
        os._exit(1)
    return run, measured


def measure(run: Path, data: Path, test: Path | None) -> dict[str, float]:
    """A run's numbers; evaluates it unless that is done."""
    numbers, predictions = {}, {}
    for name, source in {"evaluation": data, "evaluation-test": test}.items():
        if source is not None:
            folder = run / name
            if not _is_evaluated(run, folder, source):
                evaluation.evaluate_weights(run, data=str(source), out=folder, workers=1, save_predictions=True)
            predictions[name] = evaluation.Predictions.load(folder / "predictions.safetensors")
            numbers[name] = read_metrics(folder / "metrics.json")["metrics"]
    values = numbers["evaluation-test" if test else "evaluation"]
    result = {"error": 1 - values["top1"], "top5_error": 1 - values["top5"], "nll": values["nll"], "ece": values["ece"],
              "recall_error": 1 - values["recall_at_1"]}  # fmt: skip
    if test:
        result |= temperature_scaled(predictions["evaluation"], predictions["evaluation-test"])
    return result


def _is_evaluated(run: Path, folder: Path, source: Path) -> bool:
    """Whether the folder has the evaluation of the run as it is now, on these data."""
    metrics = folder / "metrics.json"
    if not metrics.exists() or not (folder / "predictions.safetensors").exists():
        return False
    same = Path(read_metrics(metrics)["info"]["data"]).resolve() == evaluation_half("", str(source)).resolve()
    return same and metrics.stat().st_mtime_ns > (run / "last.pt").stat().st_mtime_ns


def summarise(numbers: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Values, mean and std of each variant and metric, and the difference to the first variant."""
    baseline, *others = numbers
    summary: dict[str, Any] = {name: {} for name in numbers}
    for key in numbers[baseline][0]:
        values = {name: [run[key] for run in runs] for name, runs in numbers.items()}
        differences = {name: difference(values[name], values[baseline]) for name in others}
        corrected = holm({name: found["p"] for name, found in differences.items()})
        for name in numbers:
            summary[name][key] = {
                "values": values[name],
                "mean": np.mean(values[name]),
                "std": np.std(values[name], ddof=1),
            }
            if name in differences:
                summary[name][key]["difference"] = differences[name] | {"p_holm": corrected[name]}
    return summary


def _rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table's head and rows: mean ± std, and whether the difference to the baseline is significant."""
    keys = [key for key in COLUMNS if key in next(iter(summary.values()))]
    rows = []
    for name, entries in summary.items():
        row = [name]
        for key in keys:
            entry, factor = entries[key], COLUMNS[key][1]
            places = 2 if factor > 1 else 3
            mark = "*" if entry.get("difference", {}).get("p_holm", 1) < 0.05 else ""
            row.append(f"{factor * entry['mean']:.{places}f} ± {factor * entry['std']:.{places}f}{mark}")
        rows.append(row)
    return ["variant", *(COLUMNS[key][0] for key in keys)], rows


def markdown(summary: dict[str, Any]) -> str:
    """The table in Markdown."""
    head, rows = _rows(summary)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def print_table(summary: dict[str, Any]) -> None:
    """Prints it for the terminal."""
    head, rows = _rows(summary)
    runs = len(next(iter(summary.values()))["error"]["values"])
    table = Table(*head, title=f"Mean ± std of {runs} seeds; * differs from the first, p < 0.05", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=max(console.width, 30 + 18 * len(head))).print(table)
