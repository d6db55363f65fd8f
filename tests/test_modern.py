"""What today's recipes turn on: BCE, LAMB and AdamW, layer decay, clipping, a warmed-up average, stochastic depth."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from conftest import TINY_RECIPE
from test_numerics import kl, softmax
from timm.loss import BinaryCrossEntropy
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from skd_plugins import Recipe, SkdError, create_model, create_task, list_methods, replace, train
from skd_plugins.evaluation.evaluate import evaluate_weights
from skd_plugins.methods import create_method, get_method
from skd_plugins.recipe import override
from skd_plugins.training.parts import (
    build_criterion,
    build_optimizer,
    build_scheduler,
    build_task,
    clip_gradients,
    highest_rate,
)
from skd_plugins.training.plan import make_plan

CLASSES, CPU = 5, torch.device("cpu")
SMALL = {"channels": (8, 8, 16, 16)}
BCE = replace(TINY_RECIPE, loss="bce")


def network(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet10t", num_classes=CLASSES, **{**SMALL, **arguments})


def sigmoid_loss(z: np.ndarray, t: np.ndarray) -> float:
    """``mean_i sum_k -[t log s(z) + (1 - t) log(1 - s(z))]`` of logits and targets ``[B, C]``."""
    s = 1 / (1 + np.exp(-z))
    return float(-np.mean(np.sum(t * np.log(s) + (1 - t) * np.log(1 - s), axis=1)))


# ---- binary cross-entropy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "soft"),
    [({}, False), ({"label_smoothing": 0.2}, False), ({"mixup": 0.2, "label_smoothing": 0.1}, True),
     ({"cutmix": 1.0, "bce_threshold": 0.2}, True)],
)  # fmt: skip
def test_bce_and_both_kl_terms(changes: dict[str, Any], soft: bool) -> None:
    """SD-Dropout on CS-KD: sigmoids for the targets, softmaxes for the two comparisons; float64 NumPy."""
    recipe = replace(BCE, **changes)
    pairing = {"base": "cs_kd", "base_args": {"pairing": "sampled", "weight": 0.7}}
    method = create_method("sd_dropout", network().double(), build_criterion(recipe), weight=0.3, **pairing).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1]).repeat(2)
    onehot = np.eye(CLASSES)[labels[:4]]
    target, expected_target = labels, (1 - recipe.label_smoothing) * onehot + recipe.label_smoothing / CLASSES
    if soft:  # as timm's mixup makes them; the engine gives them to all segments
        mixed = 0.85 * onehot + 0.15 * onehot[::-1]
        expected_target = mixed
        target = torch.tensor(np.concatenate([mixed, mixed]))
        if recipe.bce_threshold is not None:
            expected_target = (mixed > recipe.bce_threshold).astype(float)
            assert (expected_target != mixed).any()
    torch.manual_seed(7)
    result = method(images, target)

    z, z_pair = (method.model(half).detach().numpy() for half in images.chunk(2))
    features = result["features"].detach().numpy()
    torch.manual_seed(7)
    masks = [nn.functional.dropout(torch.ones(4, features.shape[1], dtype=torch.float64), 0.5) for _ in range(2)]
    head = method.model.get_classifier()
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    p_u, p_v = (softmax((features * mask.numpy() @ weight.T + bias) / 3) for mask in masks)
    kd = 16 * kl(softmax(z_pair / 4), softmax(z / 4))
    sdd = 9 * (kl(p_u, p_v) + kl(p_v, p_u))
    assert result["ce"].item() == pytest.approx(sigmoid_loss(z, expected_target), rel=1e-10)
    assert result["kd"].item() == pytest.approx(kd, rel=1e-10)
    assert result["sdd"].item() == pytest.approx(sdd, rel=1e-10)
    assert result["loss"].item() == pytest.approx(sigmoid_loss(z, expected_target) + 0.7 * kd + 0.3 * sdd, rel=1e-10)


def test_a_recipes_bce_is_timms() -> None:
    """The mean over classes divides the whole loss, so the terms keep their ratio; ``bce_sum`` does not divide."""
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 2])
    theirs = BinaryCrossEntropy(smoothing=0.1)
    for changes, scale in ({}, 1 / CLASSES), ({"bce_sum": True}, 1.0):
        recipe = replace(BCE, label_smoothing=0.1, **changes)
        plain = build_task(recipe, CLASSES, CPU).eval()
        expected = theirs(plain.method.model(images), labels)
        assert plain(images, labels)["loss"].item() == pytest.approx(expected.item() * CLASSES * scale, rel=1e-6)
        both = build_task(replace(recipe, method="sd_dropout", method_args={"weight": 0.4}), CLASSES, CPU).eval()
        result = both(images, labels)
        assert result["sdd"] > 0
        total = (result["ce"] + 0.4 * result["sdd"]) * scale
        assert result["loss"].item() == pytest.approx(total.item(), rel=1e-6)


REFUSED = {"adacos", "label_smoothing", "max_entropy", "ols", "tf_kd", "uskd", "virtual_softmax", "zipf_ls"}


@pytest.mark.parametrize("name", list_methods())
def test_every_method_takes_bce_or_says_why_not(name: str) -> None:
    model = network(classifier=get_method(name).classifier)
    needed = {"teacher": network()} if name == "kd" else {}
    criterion = build_criterion(BCE)
    if name in REFUSED:
        with pytest.raises(SkdError, match=r"binary cross-entropy"):
            create_method(name, model, criterion, **needed)
        if name in ("label_smoothing", "ols", "tf_kd", "zipf_ls"):
            with pytest.raises(SkdError, match=rf"^{name} "):
                create_method("sd_dropout", model, criterion, base=name)
        return
    method = create_method(name, model, criterion, **needed).train()
    method.begin_epoch(0, 1)
    parts = len(method.segments)
    result = method(torch.randn(4 * parts, 3, 32, 32), torch.tensor([0, 1, 2, 2]).repeat(parts))
    result["loss"].backward()
    assert next(model.parameters()).grad.abs().sum() > 0
    if name in ("ce", "dropout"):
        create_method(name, network(), BinaryCrossEntropy())
    else:
        for mean in (BinaryCrossEntropy(), nn.BCEWithLogitsLoss()):
            with pytest.raises(SkdError, match=rf"other terms of {name} would outweigh it .*sum_classes=True"):
                create_method(name, network(), mean, **needed)


# ---- optimizers and layers -------------------------------------------------------------------------------------------


def rates(recipe: Recipe, method: Any) -> dict[str, float]:
    """The rate of each parameter of the method, in the first step after the warm-up."""
    optimizer = build_optimizer(recipe, method)
    scheduler = build_scheduler(recipe, optimizer, 5)
    if scheduler is not None:
        scheduler.step_update(5 * recipe.warmup_epochs)
    assert highest_rate(optimizer) == pytest.approx(recipe.lr)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "multistep"])
@pytest.mark.parametrize("name", ["byot", "dml"])
def test_layer_decay_leaves_the_methods_own_parts_at_the_full_rate(name: str, schedule: str) -> None:
    warmup = 2 if schedule == "cosine" else 0
    recipe = replace(TINY_RECIPE, layer_decay=0.5, schedule=schedule, warmup_epochs=warmup, milestones=(9,), epochs=9)
    method = create_method("sd_dropout", network(), base=name)
    found = rates(recipe, method)
    assert len(found) == len(list(method.parameters()))
    layers = timm.models.group_parameters(method.model, method.model.group_matcher(), reverse=True)
    last = max(layers.values())
    assert last == 5  # stem, four blocks, classifier
    own = {key: rate for key, rate in found.items() if not key.startswith("model.")}
    assert own
    assert list(own.values()) == pytest.approx([0.05] * len(own))
    for key, layer in layers.items():
        assert found[f"model.{key}"] == pytest.approx(0.05 * 0.5 ** (last - layer)), key


def test_layer_decay_and_the_bank_of_a_vit() -> None:
    recipe = replace(TINY_RECIPE, optimizer="adamw", layer_decay=0.75, decay_norm_and_bias=False, weight_decay=0.05)
    model = timm.create_model("test_vit", num_classes=CLASSES)
    found = rates(recipe, create_method("cs_kd", model, pairing="bank"))
    assert found["model.head.weight"] == pytest.approx(0.05)
    assert found["model.norm.weight"] == pytest.approx(0.05 * 0.75)
    assert found["model.blocks.0.mlp.fc1.weight"] == pytest.approx(0.05 * 0.75**6)
    assert found["model.patch_embed.proj.weight"] == pytest.approx(0.05 * 0.75**7)


def test_layer_decay_needs_layers() -> None:
    recipe = replace(TINY_RECIPE, layer_decay=0.5, model="torchvision/resnet18", model_args={})
    with pytest.raises(SkdError, match=r"layer_decay=0\.5: torchvision/resnet18 does not say which layer"):
        make_plan(recipe)


@pytest.mark.parametrize(("name", "kind"), [("lamb", timm.optim.Lamb), ("adamw", torch.optim.AdamW)])
def test_lamb_and_adamw(name: str, kind: type) -> None:
    recipe = replace(TINY_RECIPE, optimizer=name, weight_decay=0.02, decay_norm_and_bias=False)
    optimizer = build_optimizer(recipe, create_method("ce", network()))
    assert type(optimizer) is kind
    decays = {p.ndim > 1: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {True: 0.02, False: 0.0}
    assert make_plan(recipe)["optimizer"] == f"{kind.__name__}, lr 0.05, weight decay 0.02 (not on norms and biases)"


def test_further_arguments_of_the_optimizer() -> None:
    recipe = override(TINY_RECIPE, ["optimizer=adamw", "optimizer_args.betas=[0.8,0.98]"])
    recipe = override(recipe, ["optimizer_args.fused=true"])
    method = create_method("ce", network())
    optimizer = build_optimizer(recipe, method)
    assert optimizer.defaults["betas"] == (0.8, 0.98)
    assert optimizer.defaults["fused"] is True
    for wrong, reason in {
        "fusd=true": "unexpected keyword argument 'fusd'",
        "lr=1": "multiple values",
        "betas=[2,0]": "beta",
    }.items():
        with pytest.raises(SkdError, match=f"optimizer 'adamw': .*{reason}"):
            make_plan(override(recipe, [f"optimizer_args.{wrong}"]))


# ---- clipping and the average ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_clipping(mode: str) -> None:
    recipe = replace(TINY_RECIPE, clip_grad=0.01, clip_mode=mode)
    task = create_task("sd_dropout", network(), base="byot")
    generator = torch.Generator().manual_seed(0)
    before = {}
    for name, parameter in task.method.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        before[name] = parameter.grad.clone()
    clip_gradients(recipe, Accelerator(cpu=True), build_optimizer(recipe, task.method), task)
    norm = math.sqrt(sum(grad.square().sum().item() for grad in before.values()))
    for name, parameter in task.method.named_parameters():
        old = before[name]
        if mode == "norm":
            expected = old * (0.01 / norm)
        elif mode == "value":
            expected = old.clamp(-0.01, 0.01)
        elif name in ("model.fc.weight", "model.fc.bias"):
            expected = old
        else:
            copy = parameter.detach().clone().requires_grad_()
            copy.grad = old.clone()
            adaptive_clip_grad(copy, 0.01)
            expected = copy.grad
            assert not torch.equal(expected, old), name
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_fp16_clips_unscaled_gradients(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real GradScaler makes the same step; one whose gradients overflow is left out, also if clipping hides it."""
    recipe = replace(TINY_RECIPE, clip_grad=0.01, clip_mode=mode)
    images, labels = torch.randn(8, 3, 32, 32), torch.tensor([0, 1, 2, 3]).repeat(2)
    accelerator, steps = Accelerator(cpu=True), []
    for scaler in None, torch.amp.GradScaler("cpu", init_scale=2.0**10):
        if scaler is not None:  # as accelerate does on a GPU
            accelerator.scaler, accelerator.native_amp = scaler, True
            monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        task = create_task("ce", network())
        optimizer = accelerator.prepare(build_optimizer(recipe, task.method))
        before = [parameter.detach().clone() for parameter in task.method.parameters()]
        for factor in (1.0,) if scaler is None else (1.0, math.inf):
            optimizer.zero_grad()
            accelerator.backward(task(images, labels)["loss"] * factor)
            clip_gradients(recipe, accelerator, optimizer, task)
            optimizer.step()
            if factor == 1:
                steps.append([parameter.detach().clone() for parameter in task.method.parameters()])
        assert all(map(torch.equal, task.method.parameters(), steps[-1]))
    assert optimizer.step_was_skipped
    assert accelerator.scaler.get_scale() == 2.0**9
    assert all(map(torch.equal, *steps))
    largest = max((now - old).abs().max().item() for now, old in zip(steps[0], before, strict=True))
    assert 1e-6 < largest < 0.1


# ---- a training ------------------------------------------------------------------------------------------------------


def test_the_engine_uses_them(digits_beton: Path, tmp_path: Path) -> None:
    recipe = replace(
        BCE, label_smoothing=0.1, layer_decay=0.5, ema_decay=0.9, ema_warmup=True, schedule="constant", epochs=1,
        clip_grad=1e-3, clip_mode="value", momentum=0.0, weight_decay=0.0,
    )  # fmt: skip
    weights, averages = [], []
    for steps in (1, 2):
        run = train(replace(recipe, max_steps=steps), data=str(digits_beton), out=tmp_path / str(steps))
        state = torch.load(run / "last.pt", weights_only=True)
        weights.append(state["state_dict"])
        averages.append(state["state_dict_ema"])
    for key in ("fc.weight", "layer1.0.conv1.weight"):
        torch.testing.assert_close(averages[0][key], weights[0][key], rtol=0, atol=0)
        decay = 1 - 2 ** (-2 / 3)
        torch.testing.assert_close(averages[1][key], decay * weights[0][key] + (1 - decay) * weights[1][key])
    moved = {key: (weights[1][key] - weights[0][key]).abs().max().item() for key in weights[0]}
    assert moved["fc.weight"] == pytest.approx(1e-3 * 0.05, rel=1e-2), "clipped by value, at the full rate"
    assert moved["layer4.0.downsample.1.weight"] == pytest.approx(1e-3 * 0.05 / 2, rel=1e-2), "at half of it"
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in logged if entry["event"] == "train"]
    assert [entry["lr"] for entry in steps] == [0.05, 0.05]
    assert [entry["loss"] for entry in steps] == pytest.approx([entry["ce"] / 10 for entry in steps])
    assert steps[0]["ce"] > 4, "ten sigmoids, not one softmax"
    page = evaluate_weights(run, data=str(digits_beton))
    assert "softmax of logits that binary cross-entropy trained" in page.read_text()


# ---- what can't be, and the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_mode": "agc"}, "clip_mode=agc has no effect with clip_grad=None; leave it out, or set clip_grad"),
        ({"ema_warmup": True}, "ema_warmup=True has no effect with ema_decay=None"),
        ({"bce_threshold": 0.2}, r"bce_threshold=0\.2 has no effect with loss=ce"),
        ({"bce_threshold": 0.0}, r"bce_threshold=0\.0 has no effect with loss=ce"),
        ({"bce_sum": True}, "bce_sum=True has no effect with loss=ce"),
        ({"layer_decay": 1.0}, "layer_decay should be less than 1"),
        ({"clip_grad": 1.0, "clip_mode": "l2"}, "clip_mode should be 'norm', 'value' or 'agc'"),
    ],
)
def test_what_has_no_effect_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        replace(TINY_RECIPE, **changes)


def test_the_plan_names_them() -> None:
    recipe = replace(
        BCE, optimizer="lamb", layer_decay=0.5, clip_grad=0.02, clip_mode="agc", ema_decay=0.99, ema_warmup=True,
        bce_threshold=0.2, mixup=0.1, cutmix=1.0, schedule="cosine", warmup_epochs=1, epochs=3,
    )  # fmt: skip
    plan = make_plan(recipe)
    assert plan["loss"] == "binary cross-entropy, mean over the classes, targets above 0.2, mixup 0.1, cutmix 1"
    assert plan["optimizer"] == (
        "Lamb, lr 0.05, weight decay 0.0001, layer decay 0.5 (first layer's lr 0.00156), "
        "gradients clipped to 0.02 (agc), weights averaged with 0.99 (warm-up)"
    )
    assert "0.05 highest" in plan["rates"]
    for method in sorted(REFUSED - {"adacos"}):
        with pytest.raises(SkdError, match="binary cross-entropy"):
            make_plan(replace(recipe, method=method, mixup=0.0, cutmix=0.0))
