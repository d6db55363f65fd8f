"""``--dry-run``: numbers that can be checked by hand, and by torch."""

import math
from pathlib import Path

import pytest
import torch
from conftest import TINY_RECIPE

from skd_plugins import Recipe, SkdError, create_model, replace
from skd_plugins.methods import create_method
from skd_plugins.training.parts import build_optimizer
from skd_plugins.training.plan import make_plan

R152 = Recipe(name="resnet152.sdd_in1k", model="resnet152", method="sd_dropout", method_args={"weight": 0.1})
R18 = replace(R152, model="resnet18")  # quick to build
SMALL = replace(TINY_RECIPE, model_args={}, image_size=32, batch_size=50)


def test_imagenet_without_data() -> None:
    plan = make_plan(R152)
    assert plan["parameters"] == 60_192_808  # torchvision's documentation of ResNet-152
    assert plan["training-only parameters"] == 0
    assert plan["steps an epoch"] == 5005  # ceil(1,281,167 / 256)
    assert plan["steps"] == 450_450
    assert plan["images decoded an epoch"] == 1_281_167
    assert make_plan(replace(R152, method="cs_kd", method_args={}))["images decoded an epoch"] == 2 * 1_281_167
    assert "imagenet-1k" in plan["data"]


@pytest.mark.parametrize(
    ("method", "extra", "segments"),
    [("byot", 32_257_976, 1), ("cs_kd_e", 0, 3), ("ddgsd", 0, 2), ("dml", 25_557_032, 1), ("uskd", 1_025_000, 1)],
)
def test_what_a_method_adds(method: str, extra: int, segments: int) -> None:
    """Every method has a plan: tests/test_study.py."""
    plan = make_plan(replace(R152, model="resnet50", method=method, method_args={}))
    assert plan["training-only parameters"] == extra
    assert plan["images decoded an epoch"] == 1_281_167 * segments


def test_memory_is_what_autograd_keeps() -> None:
    """Against the tensors that a real step saves for the backward pass."""
    memory = make_plan(SMALL)["memory a process"]
    model = create_model("resnet10t", num_classes=10).train()
    assert memory["gradients"] == pytest.approx(4 * sum(p.numel() for p in model.parameters()), rel=0.01)
    saved: dict[int, int] = {}
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(model(torch.randn(50, 3, 32, 32)), torch.zeros(50, dtype=torch.long))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    real = sum(size for pointer, size in saved.items() if pointer not in weights)
    assert memory["activations"] == pytest.approx(real, rel=0.05)
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("optimizer", "copies"), [("momentum", 1), ("adamw", 2), ("lamb", 2), ("lion", 1), ("rmsproptf", 2)]
)
def test_the_optimizers_memory_is_what_a_real_step_leaves(optimizer: str, copies: int) -> None:
    recipe = replace(SMALL, optimizer=optimizer)
    model = create_model("resnet10t", num_classes=10)
    real = build_optimizer(recipe, create_method("ce", model))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    real.step()
    kept = sum(
        value.nbytes for state in real.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    )
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert kept == pytest.approx(copies * parameters, rel=0.001)
    assert make_plan(recipe)["memory a process"]["optimizer"] == pytest.approx(kept, rel=0.001)


def test_without_momentum_nothing_is_kept_and_the_average_is_the_networks() -> None:
    recipe = replace(R152, model="resnet50", method="byot", method_args={}, optimizer="momentum", momentum=0.0)
    memory = make_plan(replace(recipe, ema_decay=0.9))["memory a process"]
    assert memory["optimizer"] == 0
    network = sum(value.nbytes for value in create_model("resnet50").state_dict().values())
    assert memory["average"] == network
    assert memory["weights"] > 1.5 * network, "BYOT's branches"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "kd", "method_args": {"teacher": "resnet18.a1_in1k"}, "num_classes": 7}, "have 1000 classes, the"),
        ({"method": "virtual_softmax", "mixup": 0.2}, r"mixup=0\.2, cutmix=0: virtual_softmax needs class indices .*"),
        ({"method": "label_smoothing", "label_smoothing": 0.1}, "label_smoothing brings"),
        ({"model": "torchvision/alexnet", "image_size": 3}, r"image_size=3: \w+ can't take such images: .+[Ss]ize"),
        ({"method": "byot", "image_size": 16}, "image_size is too small, a stage's maps of 4 x 4 .* 8 times"),
        ({"batch_size": 7, "grad_accumulation": 2}, "batch_size=7"),
        ({"auto_augment": "rand-m9-foo"}, "auto_augment should be timm's rand-m9.*, got 'rand-m9-foo'"),
        (
            {"method": "cs_kd", "method_args": {"pairing": "batch"}, "repeated_augmentation": 2},
            r"repeated augmentation \(2\) would make an image its own partner",
        ),
        ({"dataset": "cifar1000"}, r"unknown dataset 'cifar1000'; .*your own images: give --data"),
    ],
)
def test_what_cannot_be_trained_has_no_plan(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        make_plan(replace(R18, **({"method_args": {}} | changes)))


def test_the_rates_are_those_of_the_steps() -> None:
    """20 epochs of 4 steps; one decay at epoch 1, after a warm-up of one epoch or none."""
    assert make_plan(replace(SMALL, epochs=20))["rates"] == "0.05 first, 0.05 highest, 0.005 last"
    warm = replace(SMALL, epochs=20, schedule="cosine", warmup_epochs=10)
    last = 0.025 * (1 + math.cos(math.pi * 39 / 40))
    assert make_plan(warm)["rates"] == f"0 first, 0.05 highest, {last:.3g} last"


def test_the_augmentation_is_named() -> None:
    assert make_plan(R18)["augmentation"] == "random crop of 0.08 to 1 of the area, flip 0.5"
    changes = {"augment": "shift", "hflip": 0.0, "auto_augment": "ta_wide", "random_erasing": 0.25}
    plan = make_plan(replace(R18, **changes, repeated_augmentation=3))
    expected = "shift by up to 4 px, ta_wide, random erasing 0.25, 1/3 of the images an epoch, each 3 times"
    assert plan["augmentation"] == expected
    assert plan["steps an epoch"] == 5005


def test_data_is_found_and_counted(digits_beton: Path) -> None:
    plan = make_plan(replace(SMALL, dataset="imagenet-1k"), data=str(digits_beton))
    assert (plan["training anchors"], plan["validation images"], plan["steps an epoch"]) == (200, 797, 4)
    assert "10 classes" in plan["network"]
    assert plan["data"].endswith("; imagenet-1k has 1000 classes, this data 10")
    with pytest.raises(SkdError, match="does not exist"):
        make_plan(R18, data=str(digits_beton / "no"))
