"""From a recipe's fields to schedule, network and method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skd_plugins import Recipe, create_model, create_task, replace
from skd_plugins.training.build import build_scheduler, synchronise_own_parts

BASE = Recipe(name="x.y", dataset="digits", model="resnet10t", epochs=4, lr=0.5, milestones=(1, 2), lr_decay=0.1)


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = build_scheduler(recipe, optimizer, steps_per_epoch)
    found = []
    for step in range(recipe.epochs * steps_per_epoch):
        if scheduler is not None:
            scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.5] * 2 + [0.05] * 2 + [0.005] * 4),
        ({"schedule": "constant"}, [0.5] * 8),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.0, 0.125, 0.25, 0.375] + [0.5] * 4),
        ({"schedule": "multistep", "warmup_epochs": 1}, [0.0, 0.25, 0.05, 0.05] + [0.005] * 4),
    ],
)
def test_rates(changes: dict[str, object], expected: list[float]) -> None:
    assert rates(replace(BASE, **changes), 2) == pytest.approx(expected)


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
