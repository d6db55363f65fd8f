"""``skd timm-train``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from .. import timm_train as package


def timm_train(
    script: Annotated[Path, tyro.conf.arg(name="timm")],
    method: str,
    method_args: Sequence[str] = (),
    arguments: tyro.conf.Positional[Sequence[str]] = (),
) -> None:
    """Run timm's own, unmodified train.py with a method. timm's arguments follow after --.

    Example: skd timm-train --timm train.py --method sd_dropout --method-args weight=0.1 -- --data-dir DATA

    Args:
        script: timm's train.py, 1.0.30 or later. It is in timm's repository, not in the package: take it from the tag
            of the version that is installed.
        method: its name; skd list methods shows all.
        method_args: name=value for the method, e.g. base=cs_kd base_args.pairing=bank
        arguments: timm's arguments, after --.
    """
    package.run_with_method(script, method, method_args, arguments)
