"""Fine-tunes real ImageNet weights on real photographs: cross-entropy against CS-KD and SD-Dropout, several seeds.

stamps.py has the data and the weights, which the package registries have. Each method's learning rate and weight are
chosen on the validation images, with seeds of their own; then the test images are looked at once.

Run: make finetune-demo, or python benchmarks/finetune.py [--folder .setup/finetune] [--jobs 1]
     python benchmarks/finetune.py --page      # the committed numbers into docs/tutorials/finetune.md
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from evidence_page import between
from rounds import ROOT
from stamps import MODEL, PIXELS, fetch, write_data, write_weights

from skd_plugins.commands.study import plans_of, print_table, summarise, train_and_measure
from skd_plugins.common.environment import environment
from skd_plugins.common.files import write_json
from skd_plugins.recipe import Recipe, replace
from skd_plugins.training.project import recipe_of

RESULTS = ROOT / "benchmarks" / "results" / "finetune.json"
# The others take the learning rate that is best for cross-entropy.
RATES = ("1e-4", "3e-4", "1e-3")
METHODS = {
    "cross-entropy": ("ce",),
    "CS-KD, bank": tuple(f"cs_kd pairing=bank weight={weight}" for weight in (0.5, 2)),
    "CS-KD, sampled": tuple(f"cs_kd weight={weight}" for weight in (0.5, 2)),
    "SD-Dropout": tuple(f"sd_dropout weight={weight}" for weight in (0.1, 1)),
}
SEEDS, SEARCH_SEEDS = range(5), range(100, 101)
COLUMNS = {"error": ("error %", 100, 1), "nll": ("NLL", 1, 3), "ece": ("ECE %", 100, 1),
           "scaled_nll": ("NLL, scaled", 1, 3), "scaled_ece": ("ECE, scaled %", 100, 1)}  # fmt: skip


def base(weights: Path) -> Recipe:
    """recipes/finetune_timm.py for a small network on few images."""
    return replace(
        recipe_of("finetune_timm"), name="lite0.stamps", model=MODEL, initial_weights=str(weights), freeze="norms",
        batch_size=16, epochs=8, image_size=96, scale=(0.7, 1.0), crop_pct=1.0, workers=0, validate_every=8,
        trackers=(), **PIXELS,
    )  # fmt: skip


def measured(
    plans: dict[str, Recipe], seeds: range, data: Path, test: Path | None, out: Path, jobs: int
) -> dict[str, list[dict[str, float]]]:
    """The numbers of each variant, seed by seed."""
    work = [replace(recipe, seed=seed) for seed in seeds for recipe in plans.values()]
    runs = train_and_measure(work, data, test, out, jobs)
    return {name: [values for _, values in runs[number :: len(plans)]] for number, name in enumerate(plans)}


def search(recipe: Recipe, data: Path, out: Path, jobs: int) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Each method's variant with the lowest error, then NLL, on the validation images; and the numbers of all."""
    found: dict[str, dict[str, float]] = {}
    rates: tuple[str, ...] = RATES
    best = {}
    for name, variants in METHODS.items():
        candidates = tuple(f"{variant} lr={rate}" for variant in variants for rate in rates)
        plans = plans_of(recipe, candidates, data)
        numbers = measured(plans, SEARCH_SEEDS, data, None, out / "search", jobs)
        own = {text: {key: float(np.mean([run[key] for run in runs])) for key in ("error", "nll", "ece")}
               for text, runs in numbers.items()}  # fmt: skip
        order = sorted(own, key=lambda text: (own[text]["error"], own[text]["nll"]))
        best[name] = order[0]
        if name == "cross-entropy":
            rates = (order[0].rpartition("=")[2],)
        found |= own
        print(f"{name}: {best[name]}, validation error {own[best[name]]['error']:.1%}", flush=True)
    return best, found


def study(folder: Path, jobs: int) -> dict[str, Any]:
    """Fetches, searches, trains with the chosen settings, and measures on the test images."""
    fetch(folder)
    weights = write_weights(folder)
    counts = write_data(folder)
    data, test, out = folder / "data", folder / "test", folder / "runs"
    recipe = base(weights)
    begin = time.monotonic()
    best, found = search(recipe, data, out, jobs)
    plans = plans_of(recipe, tuple(best.values()), data)
    numbers = measured({name: plans[text] for name, text in best.items()}, SEEDS, data, test, out / "final", jobs)
    summary = summarise(numbers)
    print_table(summary)
    recipe_fields = {name: value for name, value in recipe.to_json().items() if name != "initial_weights"}
    return {"images": counts, "recipe": recipe_fields, "search": found, "chosen": best, "results": summary,
            "minutes": (time.monotonic() - begin) / 60, "environment": environment()}  # fmt: skip


def page(content: dict[str, Any]) -> str:
    """The table of the test images, with the differences to cross-entropy."""
    head = [
        "method",
        "chosen",
        *(title for title, _, _ in COLUMNS.values()),
        "error, difference",
        "p",
        "NLL, difference",
        "p",
    ]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for name, entries in content["results"].items():
        row = [name, f"`{content['chosen'][name]}`"]
        for key, (_, factor, places) in COLUMNS.items():
            row.append(f"{factor * entries[key]['mean']:.{places}f} ± {factor * entries[key]['std']:.{places}f}")
        for key in ("error", "nll"):
            _, factor, places = COLUMNS[key]
            apart = entries[key].get("difference")
            row += [f"{factor * apart['mean']:+.{places}f}", f"{apart['p_holm']:.2g}"] if apart else ["", ""]
        lines.append(row)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".setup" / "finetune", help="for data, weights and runs")
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time; default: one a core")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if not options.page:
        write_json(RESULTS, study(options.folder.resolve(), options.jobs))
    between(ROOT / "docs" / "tutorials" / "finetune.md", "finetune", page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
