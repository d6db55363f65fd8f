"""`main`: the command line of every recipe file."""

import sys
from functools import partial
from pathlib import Path

import tyro

from .. import training  # with torch on first use, which the help does not need
from ..common.errors import one_line
from ..recipe import Recipe, override

# RUN, not STR; INT, not {None}|INT
HELP = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)


@one_line
def main(recipe: Recipe, argv: list[str] | None = None) -> None:
    """``accelerate launch recipes/NAME.py --data DIR --out runs/ [--resume] [--dry-run] [field=value ...]``."""
    arguments = _overrides_last(sys.argv[1:] if argv is None else argv)
    tyro.cli(partial(_command, recipe), args=arguments, description=f"Train {recipe.name}.", config=HELP)


def _overrides_last(arguments: list[str]) -> list[str]:
    """Moves the overrides, which may stand between options, to the end: tyro takes them in one place only."""
    options: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        is_value = bool(options) and options[-1] in ("--data", "--out")
        (options if is_value or argument.startswith("-") else overrides).append(argument)
    return options + overrides


def _command(
    recipe: tyro.conf.Suppress[Recipe],
    overrides: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    data: str | None = None,
    out: Path = Path("runs"),
    resume: tyro.conf.FlagCreatePairsOff[bool] = False,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Train a recipe.

    Args:
        recipe: the recipe.
        overrides: field=value for any field of the recipe, e.g. epochs=10 method_args.weight=0.2
        data: folder with train.beton and val.beton, or with train/ and val/ image folders.
        out: the run goes to OUT/NAME/seedN.
        resume: continue the run that is there.
        dry_run: print what would be done, and stop.
    """
    changed = override(recipe, list(overrides))
    if dry_run:
        training.print_plan(changed, data=data)
    else:
        training.train(changed, data=data, out=out, resume=resume)
