"""Finds out what `listing` prints, and keeps it in ``listed.json``: ``python -m skd_plugins.commands.listed``."""

from pathlib import Path
from typing import Any

import timm
import torch

from ..common.files import write_json
from ..methods.overview import method_rows
from ..networks import NETWORKS
from ..networks.create import build_network


def found() -> dict[str, list[list[Any]]]:
    """The methods' rows, and the name, parameters, classes and pixels of each network."""
    models = []
    for name in NETWORKS:
        config = timm.get_pretrained_cfg(name)
        assert config is not None  # all of ours have one
        with torch.device("meta"):
            model = build_network(name, num_classes=config.num_classes)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        models.append([name, parameters, config.num_classes, config.input_size[-1]])
    return {"methods": [[*row] for row in method_rows()], "models": models}


if __name__ == "__main__":
    write_json(Path(__file__).with_suffix(".json"), found())
