"""Features, logits and classifiers of timm's and torchvision's networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_methods import BATCH, CLASSES, MODELS, make_batch
from torch import nn

from skd_plugins import Method, SkdError, create_model, create_task
from skd_plugins.losses import self_distillation
from skd_plugins.methods import method
from skd_plugins.networks.create import classifier_of
from skd_plugins.networks.features import extra_rows, forward_with_features

NETWORKS = [
    *("resnet10t", "test_vit", "test_efficientnet", "test_convnext", "torchvision/resnet18", "torchvision/vgg11"),
    *("torchvision/mobilenet_v2", "torchvision/densenet121", "torchvision/efficientnet_b0"),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_classifiers_input(name: str) -> None:
    torch.manual_seed(0)
    size = {"test_vit": 160}.get(name, 64)
    model = create_model(name, num_classes=7).eval()
    input = torch.randn(2, 3, size, size)
    with torch.no_grad():
        plain = model(input)
        features, logits = forward_with_features(model, input)
    assert torch.equal(logits, plain), "the same operations, the same bits"
    torch.testing.assert_close(classifier_of(model)(features), plain)
    # More rows for the classifier, in one call of the first pass; that pass's own result is unchanged.
    calls: list[int] = []
    handle = classifier_of(model).register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    with extra_rows(model, lambda f: [2 * f, 3 * f]) as extra:
        passes = [forward_with_features(model, input) for _ in range(2)]
    handle.remove()
    assert calls == [6, 2]
    for own, logits in passes:
        torch.testing.assert_close(own, features)
        torch.testing.assert_close(logits, plain)
    (more,) = extra
    torch.testing.assert_close(more, classifier_of(model)(torch.cat([2 * features, 3 * features])))
    with torch.no_grad():
        assert torch.equal(model(input), plain), "outside such a pass the hook does nothing"
    forward_with_features(model, input)
    assert len(classifier_of(model)._forward_pre_hooks) <= 1, "one hook, however many passes"


class Careless(Method):
    """Does not let an add-on reach the classifier."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(input)
        return {"loss": self.criterion(logits, target), "output": logits, "features": logits}


def test_a_base_can_not_ignore_the_rows_of_an_add_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "_METHODS", {**method._METHODS, "careless": Careless})
    task = create_task("sd_dropout", create_model("resnet10t", num_classes=3), base="careless")
    input, target = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(SkdError, match="call anchor_forward"):
        task(input, target)
    features, logits = forward_with_features(task.method.model, input)
    assert len(features) == len(logits) == 2, "nothing is left behind"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("resnet5o"), "did you mean 'resnet50'"),
        (lambda: create_model("resnet10t", chanels=3), "model_args"),
        (
            lambda: create_model("resnet152.sdd_in1k", pretrained=True),
            "tag of timm's resnet152 'sdd_in1k'.*train it, then",
        ),
        (lambda: create_model("resnet18_cifar", pretrained=True), "can't get the weights timm/resnet18_cifar"),
        (lambda: classifier_of(nn.Conv2d(3, 4, 1)), "no nn.Linear"),
        (lambda: classifier_of(create_model("resnet10t", num_classes=0)), "does not end in linear classifiers"),
        (lambda: forward_with_features(nn.Sequential(nn.Linear(8, 2)), torch.randn(2, 3, 8, 8)), "not .2, D."),
    ],
)
def test_bad_names_arguments_and_networks(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        call()


def test_two_layer_classifier() -> None:
    """Table 13: dropout comes before the first of the two layers."""
    model = create_model("resnet10t", num_classes=CLASSES, classifier="mlp", **MODELS["timm"][1])
    assert [type(layer).__name__ for layer in model.fc] == ["Linear", "ReLU", "Linear"]
    assert model.fc[0].out_features == 512
    task = create_task("sd_dropout", model).train()
    torch.manual_seed(3)
    result = task(*make_batch(task))
    assert result["features"].shape == (BATCH, 32)
    torch.manual_seed(3)
    u, v = (model.fc(torch.nn.functional.dropout(result["features"], 0.5)) for _ in range(2))
    assert result["sdd"].item() == pytest.approx(self_distillation(u, v, 3.0).item(), rel=1e-5)
    create_task("cs_kd", model, pairing="bank")
    with pytest.raises(SkdError, match=r"one nn\.Linear"):
        create_task("virtual_softmax", model)
