"""The papers' networks: their sizes in the authors' code, timm's interface, and what is special about each."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from skd_plugins import create_model
from skd_plugins.networks import NETWORKS
from skd_plugins.networks.create import classifier_of
from skd_plugins.networks.features import forward_with_features
from skd_plugins.networks.stages import StageTap, watching

# Parameters with 100 classes, counted in the authors' networks (alinlab/cs-kd b447f25, yechanp/self_kd 9abb7e5).
PARAMETERS = {
    "densenet121_cifar": 7_048_548,
    "preact_resnet10_cifar": 4_946_724,
    "preact_resnet18_cifar": 11_217_444,
    "preact_resnet34_cifar": 21_325_604,
    "resnet10": 4_957_092,
    "resnet18_cifar": 11_220_132,
    "resnet34_cifar": 21_328_292,
}
# Arguments of tiny ones.
TINY: dict[str, dict[str, Any]] = {
    name: {"growth_rate": 4, "block_config": (1, 2, 1, 1)} if "densenet" in name else {"channels": (8, 8, 16, 16)}
    for name in PARAMETERS
}


def test_parameter_counts_are_the_authors() -> None:
    assert sorted(PARAMETERS) == list(NETWORKS)
    with torch.device("meta"):
        models = {name: create_model(name, num_classes=100) for name in NETWORKS}
    assert {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()} == PARAMETERS


@pytest.mark.parametrize("name", NETWORKS)
def test_timms_interface(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=7, **TINY[name]).eval()
    size = model.pretrained_cfg["input_size"][-1]
    assert size == (224 if name == "resnet10" else 32)
    input = torch.randn(2, 3, size, size)
    with torch.no_grad():
        maps = model.forward_features(input)
        features = model.forward_head(maps, pre_logits=True)
        assert maps.shape == (2, model.num_features, *model.pretrained_cfg["pool_size"])
        torch.testing.assert_close(features, maps.mean((2, 3)))
        assert torch.equal(model.forward_head(maps), model(input))
        assert torch.equal(model.get_classifier()(features), model(input))
        assert model(input).shape == (2, 7)
        assert torch.equal(forward_with_features(model, input)[0], features)
    assert model.get_classifier() is classifier_of(model)
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert isinstance(model.get_submodule(model.pretrained_cfg["first_conv"]), nn.Conv2d)
    assert (model.num_classes, model.head_hidden_size) == (7, model.num_features)
    model.reset_classifier(3)
    assert (model.num_classes, model.get_classifier().out_features, model(input).shape) == (3, 3, (2, 3))
    model.reset_classifier(0)
    assert torch.equal(model(input), features)
    # Its feature_info is what the modules give.
    wanted = [(2, info["num_chs"], *[size // info["reduction"]] * 2) for info in model.feature_info]
    assert len(wanted) == 5
    own = [StageTap(model, info["module"]) for info in model.feature_info]
    with watching(*own):
        model(input)
    assert [tuple(tap.take().shape) for tap in own] == wanted
    if name != "resnet10":
        assert [info["reduction"] for info in model.feature_info] == [1, 1, 2, 4, 8], "no pool in or after the stem"
    taps = timm.create_model(name, features_only=True, **TINY[name])(input)
    assert [tuple(tap.shape) for tap in taps] == wanted


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet34_cifar", "resnet10", "densenet121_cifar"])
def test_networks_are_torchvisions_but_for_the_stem(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).double()
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    if name == "densenet121_cifar":
        twin = torchvision_models.densenet121(num_classes=5)
        twin.features.conv0 = stem
        twin.features.norm0, twin.features.relu0, twin.features.pool0 = nn.Identity(), nn.Identity(), nn.Identity()
    else:
        depth = {"resnet10": [1, 1, 1, 1], "resnet18_cifar": [2, 2, 2, 2], "resnet34_cifar": [3, 4, 6, 3]}[name]
        twin = torchvision_models.ResNet(torchvision_models.resnet.BasicBlock, depth, num_classes=5)
        if name != "resnet10":
            twin.conv1, twin.maxpool = stem, nn.Identity()
    twin.double().load_state_dict(model.state_dict())
    input = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tolerance = 1e-12 if "densenet" in name else 0
    torch.testing.assert_close(twin(input), model(input), rtol=tolerance, atol=tolerance)


def preact(model: Any, x: Tensor) -> Tensor:
    """CS-KD's network, written out from its description."""

    def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return (scale[:, None, None] * (x - layer.running_mean[:, None, None]) + layer.bias[:, None, None]).clamp(min=0)

    x = norm(model.bn1, torch.conv2d(x, model.conv1.weight, padding=1))
    for stage in range(1, 5):
        for block in model.get_submodule(f"layer{stage}"):
            x = norm(block.bn1, x)
            stride = 2 if isinstance(block.shortcut, nn.Conv2d) and stage > 1 else 1
            y = torch.conv2d(x, block.conv1.weight, stride=stride, padding=1)
            y = torch.conv2d(norm(block.bn2, y), block.conv2.weight, padding=1)
            # The identity leaves after the ReLU too.
            x = y + (torch.conv2d(x, block.shortcut.weight, stride=stride) if hasattr(block.shortcut, "weight") else x)
    return x.mean((2, 3)) @ model.fc.weight.T + model.fc.bias


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("preact")])
def test_preact_resnets_are_what_is_described(name: str) -> None:
    torch.manual_seed(0)
    model: Any = create_model(name, num_classes=5, channels=(8, 12, 16, 24)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    input = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(input), preact(model, input), rtol=1e-12, atol=1e-12)
    assert model.forward_features(input).min() < 0, "no ReLU before the pooling"


def test_initialisation() -> None:
    """PyTorch's own for CS-KD's networks; torchvision's for ResNets, with no norm that starts at zero."""
    torch.manual_seed(0)
    for name in ("preact_resnet10_cifar", "densenet121_cifar"):
        for module in create_model(name, num_classes=5).modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 1000:
                bound = module.weight[0].numel() ** -0.5  # uniform between minus and plus that
                assert 0.97 * bound < module.weight.abs().max() <= bound
    for name in ("resnet18_cifar", "resnet10"):
        model = create_model(name, num_classes=5)
        assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)


def test_dropout_before_the_classifier() -> None:
    model: Any = create_model("preact_resnet10_cifar", num_classes=5, drop_rate=0.5, channels=(8, 8, 16, 16))
    features = model.forward_head(torch.ones(50, 16, 4, 4), pre_logits=True)
    assert set(features.unique().tolist()) == {0.0, 2.0}
    assert set(model.eval().forward_head(torch.ones(50, 16, 4, 4), pre_logits=True).unique().tolist()) == {1.0}
