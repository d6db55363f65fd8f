"""`MethodTask` as timm's optimizers, clipping and averaging see it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2

from skd_plugins import SkdError, create_model, create_task, get_method
from skd_plugins.weights import load_weights


@pytest.mark.parametrize("part", ["task", "trainable", "method"])
def test_optimizers_see_the_networks_weight_decay_and_layers(part: str) -> None:
    """A ViT keeps its position embedding out of weight decay, and its stem has the smallest rate."""
    model = timm.create_model("test_vit", num_classes=3)
    parameters = dict(model.named_parameters())
    undecayed = model.no_weight_decay() & set(parameters)
    assert undecayed
    task = create_task("sd_dropout", model)
    trained = {"task": task, "method": task.method, "trainable": task.get_trainable_module()}[part]
    optimizer = create_optimizer_v2(trained, opt="sgd", lr=1.0, weight_decay=0.5, layer_decay=0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(groups) == len(parameters), "every parameter once, although the add-on's base holds the network too"
    assert all(groups[id(parameters[name])]["weight_decay"] == 0 for name in undecayed)
    head = groups[id(model.get_classifier().weight)]
    assert (head["weight_decay"], head["lr_scale"]) == (0.5, 1)
    stem, last = (groups[id(weight)] for weight in (model.patch_embed.proj.weight, model.blocks[-1].mlp.fc1.weight))
    assert stem["lr_scale"] < last["lr_scale"] < 1


def test_moving_the_task_moves_the_bank() -> None:
    task = create_task("cs_kd", create_model("resnet10t", num_classes=3), pairing="bank")
    assert isinstance(task, timm.task.TrainingTask)
    assert (task.device, task.has_ema(), task.get_eval_model(ema=True)) == (torch.device("cpu"), False, None)
    task.to(torch.float64)
    assert task.dtype == task.method.bank.logits.dtype == torch.float64
    assert task.method.bank.filled.dtype == torch.bool
    assert task(torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 0, 1, 2]))["loss"].isfinite()


@pytest.mark.parametrize(
    ("name", "part", "arguments"),
    [("ps_kd", "before", {}), ("sd_dropout", "base.bank", {"base": "cs_kd", "base_args": {"pairing": "bank"}})],
)
def test_what_ddp_leaves_alone_has_its_names_in_a_compiled_module_too(
    name: str, part: str, arguments: dict[str, Any]
) -> None:
    task = create_task(name, create_model("resnet10t", num_classes=3, channels=(8, 8, 16, 16)), **arguments)
    module = task.get_trainable_module()
    assert module is not None
    for wrapped in (module, torch.compile(module)):
        names = {name for name, _ in wrapped.named_buffers()}
        ignored = names & set(wrapped._ddp_params_and_buffers_to_ignore)
        assert len(ignored) == len(list(task.method.get_submodule(part).named_buffers())) > 0


@pytest.mark.parametrize("name", ["cs_kd", "ddgsd", "cs_kd_e"])
def test_an_ordinary_batch_is_no_batch_of_pairs(name: str) -> None:
    task = create_task("sd_dropout", create_model("resnet10t", num_classes=3, channels=(8, 8, 16, 16)), base=name)
    input, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 1, 0, 2])
    with pytest.raises(SkdError, match=r"the parts' labels differ; take make_loader\(\.\.\., segments=task"):
        task(input, labels)
    assert task(input, torch.tensor([2, 2, 2, 2, 2, 2]))["loss"].isfinite()
    mixed = torch.nn.functional.one_hot(labels, 3).float()  # as another mixup than `mix_segments` gives them
    for call in (task, task.method):  # Lightning and accelerate call the method
        for target in (labels, mixed):  # not only in the first step
            with pytest.raises(SkdError, match="labels differ"):
                call(input, target)


@pytest.mark.parametrize("arguments", [{"name": "ols"}, {"name": "ps_kd"}, {"name": "kd", "base": "ps_kd"}])
def test_a_method_that_needs_the_epoch_says_so(arguments: dict[str, Any]) -> None:
    """Without it `ps_kd` would be cross-entropy, and the soft labels of `ols` uniform."""
    teacher = {"teacher": timm.create_model("test_resnet", num_classes=3)} if "base" in arguments else {}
    task = create_task(model=timm.create_model("test_resnet", num_classes=3), **arguments, **teacher)
    for call in (task, task.method):
        with pytest.raises(SkdError, match=r"needs the epoch: call task.method.begin_epoch\(epoch, epochs\)"):
            call(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1]))
    task.method.begin_epoch(0, 2)
    assert task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1]))["loss"].isfinite()


@pytest.mark.parametrize("base", ["ce", "cs_kd", "sd_dropout"])
def test_an_add_on_saves_the_network_once(base: str, tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory, so transformers' Trainer ended at its first checkpoint."""
    extra = {"teacher": timm.create_model("test_resnet", num_classes=3)} if base == "sd_dropout" else {}
    method = create_task(
        "kd" if extra else "sd_dropout", timm.create_model("test_resnet", num_classes=3), base=base, **extra
    ).method
    save_file(method.state_dict(), tmp_path / "model.safetensors")
    lightnings = {f"method.{key}": value for key, value in method.state_dict().items()}
    torch.save({"state_dict": lightnings, "pytorch-lightning_version": "2"}, tmp_path / "lightning.ckpt")
    for name in ("model.safetensors", "lightning.ckpt"):
        assert load_weights(tmp_path / name).keys() == method.model.state_dict().keys()
    twin = copy.deepcopy(method)
    assert twin.base.model is twin.model is not method.model


@pytest.mark.parametrize("name", ["ce", "adacos", "virtual_softmax"])
def test_a_label_that_is_no_class_is_named(name: str) -> None:
    head = "cosine" if name == "adacos" else "linear"
    task = create_task(name, create_model("resnet10t", num_classes=3, channels=(8, 8, 16, 16), classifier=head))
    with pytest.raises(SkdError, match="the target has the label 3, but the network's are 0 to 2"):
        task(torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 1, 2]))


def test_a_network_that_returns_an_object_is_told_what_to_do() -> None:
    model = create_model("torchvision/googlenet", num_classes=3, init_weights=False)
    with pytest.raises(SkdError, match=r"returns GoogLeNetOutputs, .* forward returns its \.logits"):
        create_task("ce", model).train()(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("ce", {}), ("cs_kd", {}), ("cs_kd", {"pairing": "bank"}), ("sd_dropout", {}), ("adacos", {})],
)
def test_ddp_over_nccl_with_one_process_changes_nothing(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Two steps: the second reads the bank and what DDP has kept."""
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    found = []
    try:
        for distributed in (False, True):
            torch.manual_seed(0)
            classifier = get_method(name).classifier
            model = create_model("resnet10t", num_classes=3, channels=(8, 8, 16, 16), classifier=classifier).to(device)
            task = create_task(name, model, device=device, **arguments)
            segments = len(task.method.segments)
            input, target = torch.randn(6 * segments, 3, 32, 32), torch.tensor([0, 1, 2, 1, 0, 2]).repeat(segments)
            if distributed:
                task.prepare_distributed([device])
            for _ in range(2):
                loss = task(input.to(device), target.to(device))["loss"]
                loss.backward()
            found.append([loss.detach(), *(p.grad for p in task.method.parameters() if p.grad is not None)])
            task.end_distributed()
    finally:
        dist.destroy_process_group()
    assert len(found[0]) > 20
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
