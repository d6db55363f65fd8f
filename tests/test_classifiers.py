"""A classifier of two layers under the methods; those of networks that are trained are in test_weights."""

from __future__ import annotations

import pytest
import torch
from test_methods import BATCH, CLASSES, MODELS, make_batch

from skd_plugins import create_model, create_task
from skd_plugins.common.errors import SkdError
from skd_plugins.methods.losses import self_distillation


def test_two_layer_classifier() -> None:
    """Table 13: dropout comes before the first of the two layers."""
    model = create_model("resnet10t", num_classes=CLASSES, classifier="mlp", **MODELS["timm"][1])
    assert [type(layer).__name__ for layer in model.fc] == ["Linear", "ReLU", "Linear"]
    assert model.fc[0].out_features == 512
    task = create_task("sd_dropout", model).train()
    result = task(*make_batch(task))
    assert result["features"].shape == (BATCH, 32)
    torch.manual_seed(3)
    result = task(*make_batch(task))
    torch.manual_seed(3)
    u, v = (model.fc(torch.nn.functional.dropout(result["features"], 0.5)) for _ in range(2))
    assert result["sdd"].item() == pytest.approx(self_distillation(u, v, 3.0).item(), rel=1e-5)
    create_task("cs_kd", model, pairing="bank")
    with pytest.raises(SkdError, match=r"one nn\.Linear"):
        create_task("virtual_softmax", model)
