"""Transformers, ConvNeXt and networks with two heads: where the features are taken, against float64 NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from test_numerics import kl, softmax
from torch import Tensor, nn

from skd_plugins import SkdError, create_model, create_task
from skd_plugins.methods import create_method
from skd_plugins.networks.create import classifier_of, classifiers_of, num_classes_of, num_features_of
from skd_plugins.networks.features import forward_with_features
from skd_plugins.weights.load import load_body

CLASSES = 5
Inputs = Callable[[Any, Tensor], list[Tensor]]


def pre_logits(model: Any, features: Tensor) -> list[Tensor]:
    """timm's own, the same for all heads."""
    return [model.forward_head(features, pre_logits=True)]


def first_tokens(model: Any, tokens: Tensor) -> list[Tensor]:
    """A distilled DeiT's: each head has its own token."""
    return [tokens[:, 0], tokens[:, 1]]


def normed(model: Any, features: Tensor) -> list[Tensor]:
    """LeViT's: the heads' BatchNorms on the same pooled features."""
    return [head.bn(features.mean(dim=1)) for head in (model.head, model.head_dist)]


SMALL = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any], Inputs]] = {
    "vit-class-token": ("vit_tiny_patch16_224", {**SMALL, "patch_size": 8}, pre_logits),
    "vit-mean-of-tokens": ("vit_tiny_patch16_224", {**SMALL, "patch_size": 8, "global_pool": "avg"}, pre_logits),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}, pre_logits),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)},
        pre_logits,
    ),
    "mixer": ("mixer_s32_224", {"img_size": 32}, pre_logits),
    "efficientnet": ("test_efficientnet", {}, pre_logits),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {**SMALL, "patch_size": 8}, first_tokens),
    "efficientformer": ("efficientformer_l1", {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 12, 16)}, pre_logits),
    "levit": ("levit_128s", {"img_size": 64, "embed_dim": (16, 24, 32), "num_heads": (1, 1, 2)}, normed),
}
NAMES = tuple(NETWORKS)


def network(name: str) -> tuple[Any, Inputs, int]:
    torch.manual_seed(0)
    model, arguments, inputs = NETWORKS[name]
    made = timm.create_model(model, num_classes=CLASSES, **arguments).double().eval()
    side = {"levit": 64, "efficientformer": 224}.get(name, 32)
    with torch.no_grad():
        size = forward_with_features(made, images(4, side))[0].std().item()
    for head in classifiers_of(made):  # logits of a size that softmax feels
        nn.init.normal_(head.weight, std=0.5 / size)
        nn.init.normal_(head.bias, std=0.3)
    return made, inputs, side


def images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits_of(model: nn.Module, inputs: list[np.ndarray]) -> np.ndarray:
    """The mean of the heads on their inputs ``[B, D]``, or all on the same."""
    heads = [(head.weight.detach().numpy(), head.bias.detach().numpy()) for head in classifiers_of(model)]
    inputs = inputs * len(heads) if len(inputs) == 1 else inputs
    return np.mean([x @ weight.T + bias for x, (weight, bias) in zip(inputs, heads, strict=True)], axis=0)


@pytest.mark.parametrize("name", NAMES)
def test_sd_dropout_and_cs_kd_are_those_of_numpy(name: str) -> None:
    model, inputs, side = network(name)
    input = images(6, side)
    labels = torch.tensor([0, 4, 1])
    method = create_method("sd_dropout", model, base="cs_kd", weight=0.3).eval()
    torch.manual_seed(5)
    result = method(input, labels.repeat(2))

    with torch.no_grad():
        tokens = model.forward_features(input)
        taken = [x.numpy() for x in inputs(model, tokens)]
        both = model(input).numpy()
    np.testing.assert_allclose(logits_of(model, taken), both, atol=1e-12)
    anchors, z, z_pair = [x[:3] for x in taken], both[:3], both[3:]
    torch.manual_seed(5)
    dropped: list[list[np.ndarray]] = [[], []]  # of each sample: each head's input, or the one of all
    for x in anchors:
        for sample in dropped:
            sample.append(x * F.dropout(torch.ones(x.shape, dtype=torch.float64), 0.5).numpy())
    p_u, p_v = (softmax(logits_of(model, sample) / 3) for sample in dropped)
    sdd = 9 * (kl(p_u, p_v) + kl(p_v, p_u))
    kd = 16 * kl(softmax(z_pair / 4), softmax(z / 4))
    ce = float(-np.mean(np.log(softmax(z)[np.arange(3), labels])))
    assert sdd > 0.01
    assert kd > 1e-3
    expected = {"ce": ce, "kd": kd, "sdd": sdd, "loss": ce + kd + 0.3 * sdd}
    for term, value in expected.items():
        assert result[term].item() == pytest.approx(value, rel=1e-9), term
    np.testing.assert_allclose(result["output"].detach(), z, atol=1e-12)
    heads = len(classifiers_of(model)) // len(anchors)
    np.testing.assert_allclose(result["features"].detach(), np.concatenate(anchors * heads, axis=1), atol=1e-12)
    assert num_features_of(model) == result["features"].shape[1]
    assert num_classes_of(model) == CLASSES
    result["loss"].backward()
    assert all(head.weight.grad.any() for head in classifiers_of(model))


@pytest.mark.parametrize("name", ["deit-distilled", "efficientformer"])
def test_a_compiled_step_of_two_heads_is_the_same(name: str) -> None:
    model, _, side = network(name)
    task = create_task("dropout", model, verbose=False).eval()  # a step that is quick to compile
    input, target = images(2, side), torch.tensor([0, 1])
    torch.manual_seed(3)
    expected = task(input, target)
    torch._dynamo.reset()
    task.compile(backend="eager")
    torch.manual_seed(3)
    found = task(input, target)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)


def test_distilled_training_is_refused() -> None:
    model, _, side = network("deit-distilled")
    model.set_distilled_training(True)
    task = create_task("sd_dropout", model.train(), verbose=False)
    with pytest.raises(SkdError, match=r"returns tuple, not once each and logits; .* set_distilled_training\(False\)"):
        task(images(2, side), torch.tensor([0, 1]))


def test_what_needs_one_classifier_says_so() -> None:
    model, *_ = network("deit-distilled")
    for make in (lambda: classifier_of(model), lambda: create_method("virtual_softmax", model)):
        with pytest.raises(SkdError, match="VisionTransformerDistilled ends in 2 classifiers, not in one"):
            make()
    with pytest.raises(SkdError, match="ends in 2 classifiers"):
        create_model("deit_tiny_distilled_patch16_224", num_classes=5, classifier="cosine", **SMALL, patch_size=8)


def test_weights_of_another_number_of_classes_leave_both_heads_random() -> None:
    model, _, side = network("deit-distilled")
    other = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **SMALL, patch_size=8).double().eval()
    assert "the rest fits" in load_body(other, model.state_dict(), what="x")
    for name, value in other.state_dict().items():
        if name.startswith("head"):  # as torch's linear layers start
            assert 0.05 < value.abs().max() <= other.head.in_features**-0.5, name
        else:
            assert torch.equal(value, model.state_dict()[name]), name
    assert not torch.equal(other.head.weight, other.head_dist.weight)
    features, logits = forward_with_features(other, images(2, side))
    assert (features.shape, logits.shape) == ((2, 32), (2, 3))


def test_agc_leaves_out_both_heads() -> None:
    model, *_ = network("deit-distilled")
    task = create_task("sd_dropout", model, verbose=False)
    everything, body = ({id(p) for p in task.get_clip_parameters(exclude_head=off)} for off in (False, True))
    assert everything - body == {id(p) for name, p in model.named_parameters() if name.startswith("head")}
    assert len(everything - body) == 4
