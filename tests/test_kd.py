"""The other networks of methods, `kd`'s teacher and `dml`'s peer; their equations are in test_numerics."""

import copy

import timm
import torch
from test_methods import make_task, two_steps
from timm.optim import create_optimizer_v2

from skd_plugins import create_model, create_task, load_weights
from skd_plugins.networks.freeze import freeze


def test_a_teacher_by_name() -> None:
    """Released weights, which are the frozen teacher's."""
    model = create_model("resnet10t", num_classes=10, channels=(8, 8, 16, 16))
    teacher = create_task("kd", model, teacher="resnet10t_digits.ce").method._teacher[0]
    assert torch.equal(teacher.state_dict()["fc.weight"], load_weights("resnet10t_digits.ce")["fc.weight"])


def test_a_teacher_stays_as_it_is() -> None:
    task = make_task("kd-cs_kd")
    teacher = task.method._teacher[0]
    before = copy.deepcopy(teacher.state_dict())
    task.train()
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="momentum", lr=0.1, filter_bias_and_bn=False)
    two_steps(task)["loss"].backward()
    optimizer.step()
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(teacher.state_dict()[key], value) for key, value in before.items())
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in task.method.model.parameters()}
    assert not any("teacher" in key for key in task.method.state_dict())
    task.to(torch.float64)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float64}


def test_a_peer_starts_with_other_weights_of_the_same_kind() -> None:
    method = make_task("dml").method
    for parameter, other in zip(method.model.parameters(), method.peer.parameters(), strict=True):
        assert torch.equal(parameter.flatten().sort().values, other.flatten().sort().values)
    assert not torch.equal(method.model.conv1[0].weight, method.peer.conv1[0].weight)
    again = make_task("dml").method
    assert torch.equal(again.peer.conv1[0].weight, method.peer.conv1[0].weight), "the seed's"


def test_a_peer_keeps_what_is_frozen() -> None:
    """It would never learn, from shuffled weights."""
    network = timm.create_model("test_resnet", num_classes=3)
    freeze(network, "stem")
    peer = create_task("dml", network).method.peer
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert all(torch.equal(peer.get_parameter(name), network.get_parameter(name)) for name in frozen)
    assert any(network.get_parameter(name).ndim == 4 for name in frozen)
    assert not torch.equal(peer.fc.weight, network.fc.weight)
