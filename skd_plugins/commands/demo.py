"""``skd demo``: the whole way on the embedded glyphs, from data to exported weights."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common.errors import SkdError
from ..common.meter import tracked
from ..data.find import embedded
from ..evaluation import compare
from ..training.project import project, train_recipe
from ..weights import export_weights
from .study import measure, print_table, summarise

RECIPES = ("glyphs_ce", "glyphs_cskd", "glyphs_sddropout")


def demo(*, out: Path = Path("runs/demo"), seeds: int = 3) -> None:
    """Train cross-entropy, CS-KD and SD-Dropout on ten embedded typefaces, test them on 129 others, and export them.

    Args:
        out: where data, runs, reports and weights go; complete runs in it are not repeated.
        seeds: runs of each recipe.
    """
    if seeds < 2:
        raise SkdError(f"--seeds is {seeds}, but a comparison needs at least 2")
    data, test = embedded("glyphs", out / "data"), embedded("glyphs_test", out / "test")
    print(f"data: {data}, {test} (62 letters and digits of 10 typefaces to train, of 20 to validate, of 129 to test)")
    jobs = [(project() / "recipes" / f"{name}.py", seed) for seed in range(seeds) for name in RECIPES]
    # One run a core, with one thread each: two runs of two threads each would wait for one another.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        training = pool.map(lambda job: train_recipe(job[0], job[1], data, out), jobs)
        runs = list(tracked(training, "training", len(jobs)))
    numbers: dict[str, list[dict[str, float]]] = {name: [] for name in RECIPES}
    for (recipe, _), run in zip(jobs, runs, strict=True):
        numbers[recipe.stem].append(measure(run, data, test))
    weights = [export_weights(run, out / "weights") for run in runs[: len(RECIPES)]]
    print_table(summarise(numbers))
    print(f"compare: {compare([run / 'evaluation-test' for run in runs], out / 'compare.html', show=False)}")
    for run in runs[: len(RECIPES)]:
        print(f"report: {run / 'evaluation-test' / 'report.html'}")
    for path in weights:
        print(f"weights: {path}")
