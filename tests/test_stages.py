"""Stages of networks, and the rest of a network after one of them."""

import copy

import pytest
import torch
from test_methods import BATCH, CLASSES
from test_numerics import Staged

from skd_plugins import create_model, create_task
from skd_plugins.common.errors import SkdError
from skd_plugins.networks.stages import STAGES, StageTap, check_resumable, resume_after, stage_modules, watching


@pytest.mark.parametrize("model", ["resnet10t", "torchvision/resnet18", "torchvision/densenet121", "convnext_atto"])
def test_the_rest_of_a_network_is_the_network(model: str) -> None:
    """Continued from a stage's own maps it gives its own logits, and leaves BatchNorm's running statistics alone."""
    torch.manual_seed(0)
    network = create_model(model, num_classes=CLASSES).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "DropPath":
            module.eval()
    input = torch.randn(BATCH, 3, 64, 64)
    for stage in stage_modules(network)[: len(STAGES) - 1]:
        check_resumable(network, stage)
        assert network.training
        tap = StageTap(network, stage)
        with watching(tap):
            logits = network(input)
        state = copy.deepcopy(network.state_dict())
        torch.testing.assert_close(resume_after(network, stage, tap.take()), logits)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
        torch.testing.assert_close(network(input), logits)


def test_two_compiled_tasks_do_not_take_one_anothers_taps() -> None:
    """Dynamo shares graphs between networks of one class; the second's two taps once kept the first's stage."""
    losses = []
    for compiled in (False, True):
        for name, arguments in [("zipf_ls", {}), ("sd_dropout", {"position": "layer1", "base": "zipf_ls"})]:
            torch.manual_seed(0)
            task = create_task(name, create_model("preact_resnet10_cifar", num_classes=CLASSES), **arguments).train()
            if compiled:
                task.compile(backend="eager")
            torch.manual_seed(1)
            result = task(torch.randn(BATCH, 3, 16, 16), torch.arange(BATCH) % CLASSES)
        losses.append({key: value.item() for key, value in result.items() if value.ndim == 0})
    assert losses[0].keys() >= {"zipf", "sdd"}
    assert losses[1] == pytest.approx(losses[0])


class Folded(Staged):
    """Has stages, but its forward does something that is not one of its modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - 1)


def test_networks_without_stages_are_refused() -> None:
    vit = create_model("test_vit", num_classes=CLASSES)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, CLASSES))
    for name, arguments, model, message in [
        ("byot", {}, small, "Sequential has no four stages .* such as a ResNet"),
        ("byot", {}, vit, r"the stages of VisionTransformer give \[2, 257, 64\]"),
        ("sd_dropout", {"position": "layer2"}, small, "Sequential has no four stages"),
        ("sd_dropout", {"position": "layer1"}, Folded(), "Folded can't be continued after 'layer1'"),
    ]:
        with pytest.raises(SkdError, match=message):
            create_task(name, model, **arguments)
