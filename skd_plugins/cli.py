"""The ``skd`` command. It imports only the module of the command that runs, so that help and version are quick."""

import os
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit("error: the command skd needs more packages: pip install 'skd_plugins[train]'") from None

from .common.errors import one_line
from .common.meter import quieten_bars
from .training.main import HELP

# Where a command's function is, and one line about it. The function's signature and docstring are its options and help.
COMMANDS = {
    "write": ("commands.prepare:write", "Write images as .beton files (FFCV), or as folders."),
    "data": ("commands.prepare:data", "Say what a data set needs, check it, or write it for training."),
    "evaluate": ("evaluation.command:evaluate", "Evaluate a run, a checkpoint or weights, with a report."),
    "compare": ("evaluation.comparison:compare", "Put evaluated runs side by side."),
    "export": ("commands.weights:export", "Export a network for timm, torchvision or detectron2."),
    "release": ("commands.release:release", "Prepare weights for others: config, card and checksums."),
    "weights": ("commands.weights:released", "List, download, verify or locate released weights."),
    "timm-train": ("commands.scripts:timm_train", "Run timm's own, unmodified train.py with a method."),
    "torchvision-train": ("commands.scripts:torchvision_train", "Run torchvision's own train.py with a method."),
    "list": ("commands.listing:list_names", "List the methods, our networks or the data sets."),
    "demo": ("commands.demo:demo", "Train and compare three methods on embedded typefaces."),
    "study": ("commands.study:study", "Compare methods on your data, with seeds and p-values."),
    "reproduce": ("papers.reproduce:reproduce", "Make tables and figures of the papers."),
    "init": ("training.project:init", "Copy the recipes and the detection scripts to a folder."),
    "doctor": ("commands.doctor:doctor", "Check this machine, and say how to get what is missing."),
}
DESCRIPTION = """\
Self-knowledge distillation for timm, FFCV and detectron2.

skd COMMAND --help explains a command, skd --version prints the version. For completion in bash, zsh or tcsh, run
skd --tyro-write-completion bash FILE once and source FILE in the shell's start-up file.
"""


def _load(name: str) -> Any:
    return pkgutil.resolve_name(f"skd_plugins.{COMMANDS[name][0]}")


def _outline(name: str) -> Callable[[], None]:
    """A function for the list of commands, which needs no more than the one line."""

    def outline() -> None: ...

    outline.__doc__ = COMMANDS[name][1]
    return outline


@one_line
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``skd``."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"skd_plugins {version('skd_plugins')}")
        return
    quieten_bars()
    config = (*HELP, tyro.conf.FlagCreatePairsOff)
    name = arguments[0].replace("_", "-") if arguments else ""
    if argv is None and name in ("write", "data", "demo"):  # importing FFCV to write would compile its loader
        os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    if name in COMMANDS:
        tyro.cli(_load(name), prog=f"skd {name}", args=arguments[1:], config=config)
        return
    # A completion script has every option of every command, so it needs the functions themselves.
    complete = any(argument.startswith("--tyro-") for argument in arguments)
    tyro.extras.subcommand_cli_from_dict(
        {name: _load(name) if complete else _outline(name) for name in COMMANDS},
        prog="skd",
        args=arguments,
        description=DESCRIPTION,
        config=config,
    )


if __name__ == "__main__":
    main()
