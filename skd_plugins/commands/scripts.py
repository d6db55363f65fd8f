"""``skd timm-train`` and ``skd torchvision-train``: other people's training scripts, with a method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from .. import timm_train as timms
from .. import torchvision_train as torchvisions


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
    timms.run_with_method(script, method, method_args, arguments)


def torchvision_train(
    references: Path,
    method: str,
    method_args: Sequence[str] = (),
    arguments: tyro.conf.Positional[Sequence[str]] = (),
) -> None:
    """Run torchvision's own, unmodified train.py with a method. Its arguments follow after --.

    Example: skd torchvision-train --references vision/references/classification --method cs_kd -- --data-path DATA

    Args:
        references: the folder references/classification of torchvision's repository, with train.py. It is not in the
            package: take it from the tag of the version that is installed.
        method: its name; skd list methods shows all.
        method_args: name=value for the method, e.g. base=cs_kd base_args.pairing=bank
        arguments: the script's arguments, after --.
    """
    torchvisions.run_with_method(references, method, method_args, arguments)
