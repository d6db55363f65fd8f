"""``skd demo``: the whole way on the embedded glyphs, from data to exported weights."""

from pathlib import Path

from .. import weights
from ..common.errors import SkdError
from ..data.find import embedded
from ..evaluation.comparison import compare
from ..recipe import replace
from ..training.project import recipe_of
from .study import print_table, summarise, train_and_measure

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
    recipes = [replace(recipe_of(name), seed=seed) for seed in range(seeds) for name in RECIPES]
    measured = train_and_measure(recipes, data, test, out)
    runs = [run for run, _ in measured]
    exported = [weights.export_weights(run, out / "weights") for run in runs[: len(RECIPES)]]
    print_table(summarise({
        name: [numbers for _, numbers in measured[number :: len(RECIPES)]] for number, name in enumerate(RECIPES)
    }))  # fmt: skip
    print(f"compare: {compare([run / 'evaluation-test' for run in runs], out / 'compare.html', show=False)}")
    for run in runs[: len(RECIPES)]:
        print(f"report: {run / 'evaluation-test' / 'report.html'}")
    for path in exported:
        print(f"weights: {path}")
