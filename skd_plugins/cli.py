"""The ``skd`` command. It imports only the module of the command that runs, so that help and version are quick."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit("error: the command skd needs more packages: pip install 'skd_plugins[train]'") from None

from .common.errors import one_line
from .common.meter import quieten_bars
from .training.main import HELP


class Command(NamedTuple):
    """Where a command's function is; its signature and docstring are the command line and the help."""

    module: str
    function: str
    summary: str

    def load(self) -> Callable[..., Any]:
        """Imports the function."""
        function: Callable[..., Any] = getattr(importlib.import_module(f"skd_plugins.{self.module}"), self.function)
        return function

    def outline(self) -> Callable[[], None]:
        """A function for the list of commands, which needs no more than the summary."""

        def listed() -> None: ...

        listed.__doc__ = self.summary
        return listed


COMMANDS = {
    "write": Command("commands.prepare", "write", "Write images as .beton files (FFCV), or as folders."),
    "data": Command("commands.prepare", "data", "Say what a data set needs, check it, or write it for training."),
    "evaluate": Command("commands.evaluate", "evaluate", "Evaluate a run, a checkpoint or weights, with a report."),
    "compare": Command("evaluation.comparison", "compare", "Put evaluated runs side by side."),
    "export": Command("commands.weights", "export", "Export a network for timm, torchvision or detectron2."),
    "release": Command("commands.release", "release", "Prepare weights for others: config, card and checksums."),
    "weights": Command("commands.weights", "released", "List, download, verify or locate released weights."),
    "timm-train": Command("commands.timm_train", "timm_train", "Run timm's own, unmodified train.py with a method."),
    "torchvision-train": Command(
        "commands.torchvision_train", "torchvision_train", "Run torchvision's own train.py with a method."
    ),
    "list": Command("commands.listing", "list_names", "List the methods, our networks or the data sets."),
    "demo": Command("commands.demo", "demo", "Train and compare three methods on embedded typefaces."),
    "study": Command("commands.study", "study", "Compare methods on your data, with seeds and p-values."),
    "reproduce": Command("papers.reproduce", "reproduce", "Make tables and figures of the papers."),
    "init": Command("training.project", "init", "Copy the recipes and the detection scripts to a folder."),
    "doctor": Command("commands.doctor", "doctor", "Check this machine, and say how to get what is missing."),
}
DESCRIPTION = """\
Self-knowledge distillation for timm, FFCV and detectron2.

skd COMMAND --help explains a command, skd --version prints the version. For completion in bash, zsh or tcsh, run
skd --tyro-write-completion bash FILE once and source FILE in the shell's start-up file.
"""


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
        tyro.cli(COMMANDS[name].load(), prog=f"skd {name}", args=arguments[1:], config=config)
        return
    # A completion script has every option of every command, so it needs the functions themselves.
    complete = any(argument.startswith("--tyro-") for argument in arguments)
    tyro.extras.subcommand_cli_from_dict(
        {name: command.load() if complete else command.outline() for name, command in COMMANDS.items()},
        prog="skd",
        args=arguments,
        description=DESCRIPTION,
        config=config,
    )


if __name__ == "__main__":
    main()
