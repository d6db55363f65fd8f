"""``skd torchvision-train``."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from .. import torchvision_train as package


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
    package.run_with_method(references, method, method_args, arguments)
