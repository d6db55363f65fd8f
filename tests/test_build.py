"""From a recipe's fields to schedule, network and method."""

import math

import pytest
import torch
from conftest import TINY_RECIPE
from torch import nn

from skd_plugins import create_model, create_task, replace
from skd_plugins.training.parts import build_scheduler, synchronise_own_parts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.5] * 2 + [0.05] * 2 + [0.005] * 4),
        ({"schedule": "constant"}, [0.5] * 8),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.0, 0.125, 0.25, 0.375] + [0.5] * 4),
        ({"schedule": "multistep", "warmup_epochs": 1}, [0.0, 0.25, 0.05, 0.05] + [0.005] * 4),
        (
            {"schedule": "cosine", "warmup_epochs": 1},
            [0.0, 0.25, *(0.25 * (1 + math.cos(math.pi * n / 6)) for n in range(6))],
        ),
        ({"schedule": "cosine", "warmup_epochs": 4}, [n / 16 for n in range(8)]),
    ],
)
def test_rates(changes: dict[str, object], expected: list[float]) -> None:
    recipe = replace(TINY_RECIPE, **({"epochs": 4, "lr": 0.5, "milestones": (1, 2)} | changes))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = build_scheduler(recipe, optimizer, steps_per_epoch=2)
    found = []
    for step in range(8):
        if scheduler is not None:
            scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("method", ["byot", "dml"])
def test_batchnorms_of_the_methods_own_parts_are_synchronised(method: str) -> None:
    model = create_model("resnet10t", num_classes=3, channels=(8, 8, 16, 16))
    task = create_task(method, model, verbose=False)

    def kinds(modules: object) -> set[type]:
        return {type(module) for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)}

    network = {id(module) for module in model.modules()}
    before = kinds(model.modules())
    assert nn.SyncBatchNorm not in kinds(task.method.modules())
    keys = list(task.method.state_dict())
    synchronise_own_parts(task.method)
    assert kinds(module for module in task.method.modules() if id(module) not in network) == {nn.SyncBatchNorm}
    assert kinds(model.modules()) == before, "converted before the method took it"
    assert list(task.method.state_dict()) == keys
