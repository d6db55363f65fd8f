"""Fine-tuning: a part of the network stays as it is; the weights that timm publishes; recipes/finetune_timm.py."""

from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from skd_plugins import SkdError, replace
from skd_plugins.networks.create import build_network
from skd_plugins.networks.freeze import freeze
from skd_plugins.training import make_plan, train
from skd_plugins.training.project import recipe_of
from skd_plugins.weights import load_weights
from skd_plugins.weights.load import load_body

SMALL = {"model": "test_resnet", "image_size": 32, "batch_size": 50, "max_steps": 3, "workers": 0, "trackers": ()}


@pytest.mark.parametrize(("name", "stem", "norms"), [
    ("resnet18", {"conv1.weight", "bn1.weight", "bn1.bias"}, 1),
    ("test_vit", {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}, 0),
    ("test_convnext", {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}, 0),
])  # fmt: skip
def test_what_is_frozen(name: str, stem: set[str], norms: int) -> None:
    model = build_network(name, num_classes=3)
    freeze(model, "stem")
    assert {key for key, value in model.named_parameters() if not value.requires_grad} == stem
    in_training = deepcopy(model).train()  # a copy, such as DML's second network, is frozen too
    batch_norms = [module for module in in_training.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [module.training for module in batch_norms] == [False] * norms + [True] * (len(batch_norms) - norms)
    assert {key for key, value in in_training.named_parameters() if not value.requires_grad} == stem


def test_torchvision_has_no_stem_but_a_body() -> None:
    model = build_network("torchvision/resnet18", num_classes=3)
    with pytest.raises(SkdError, match="freeze='stem': ResNet does not say what its stem is"):
        freeze(model, "stem")
    freeze(model, "body")
    assert [key for key, value in model.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("method", ["ce", "cs_kd", "sd_dropout"])
def test_training_moves_only_what_is_not_frozen(method: str, tmp_path: Path, digits_beton: Path) -> None:
    """Weights and BatchNorm's statistics of the frozen part are bit-equal after three steps; all others have moved."""
    model, file = build_network("test_resnet", num_classes=10), tmp_path / "begin.safetensors"
    begin = model.state_dict()
    save_file(begin, file)
    batch_norms = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    parts = {
        "none": set(),
        "norms": {f"{name}.{key}" for name, module in batch_norms.items() for key in module.state_dict()},
        "stem": {key for key in begin if key.startswith(("conv1.", "bn1."))},
        "body": set(begin) - {"fc.weight", "fc.bias"},
    }
    for part, expected in parts.items():
        recipe = replace(recipe_of("finetune_timm"), name=f"a.{part}", initial_weights=str(file),
                         freeze=part, method=method, warmup_epochs=0, weight_decay=0.05, **SMALL)  # fmt: skip
        ended = load_weights(train(recipe, data=str(digits_beton), out=tmp_path))
        assert ended.keys() == begin.keys()
        same = {key for key, value in ended.items() if torch.equal(value, begin[key])}
        assert same == expected


def test_the_plan_counts_what_is_frozen(digits_beton: Path) -> None:
    recipe = replace(recipe_of("finetune_timm"), **SMALL)
    free, fixed = (make_plan(replace(recipe, freeze=part), data=str(digits_beton)) for part in ("none", "body"))
    model = timm.create_model("test_resnet", num_classes=10)
    head = sum(value.numel() for value in model.get_classifier().parameters())
    assert "of these, frozen" not in free
    assert fixed["of these, frozen"] == fixed["parameters"] - head
    assert fixed["memory a process"]["optimizer"] == pytest.approx(8 * head, abs=16)  # AdamW's two moments
    with pytest.raises(SkdError, match="does not say what its stem is"):
        make_plan(replace(recipe, model="torchvision/resnet18", freeze="stem"), data=str(digits_beton))


def test_pretrained_is_what_the_library_publishes(
    tmp_path: Path, digits_beton: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm's default weights of the model; without a network the error names them. Here the cache has some."""
    recipe = replace(recipe_of("finetune_timm"), **SMALL)
    with pytest.raises(
        SkdError, match=r"can't get the weights timm/test_resnet from timm: .*; without a network, give"
    ):
        train(recipe, data=str(digits_beton), out=tmp_path)
    published = timm.create_model("test_resnet")
    save_file(published.state_dict(), tmp_path / "file.safetensors")
    about = timm.get_pretrained_cfg("test_resnet")
    assert about is not None
    monkeypatch.setattr(about, "file", str(tmp_path / "file.safetensors"))
    monkeypatch.setattr(about, "mean", (0.5, 0.5, 0.5))
    monkeypatch.setattr("timm.models._builder.resolve_pretrained_cfg", lambda *a, **k: about)
    run = train(replace(recipe, freeze="body"), data=str(digits_beton), out=tmp_path)
    assert torch.equal(load_weights(run)["conv1.0.weight"], published.state_dict()["conv1.0.weight"])
    said = capsys.readouterr()
    assert (
        "timm/test_resnet was trained on pixels of another mean: mean=[0.5,0.5,0.5] gives them" in said.out + said.err
    )


def test_a_new_classifier_starts_small() -> None:
    """timm's EfficientNets begin with +- 1/sqrt(classes); torch's bound is 1/sqrt(features)."""
    weights = timm.create_model("test_efficientnet", num_classes=1000).state_dict()
    headless = {key: value for key, value in weights.items() if not key.startswith("classifier")}
    begun = []
    for found, reason in (weights, "2 of another shape: classifier"), (headless, "2 missing: classifier.bias"):
        torch.manual_seed(3)
        model = timm.create_model("test_efficientnet", num_classes=4)
        features = model.classifier.in_features
        assert model.classifier.weight.abs().max() > 0.4
        note = load_body(model, found, what="them")
        assert reason in note
        assert "; the rest fits, and the classifier starts at random" in note
        assert 0.9 / features**0.5 < model.classifier.weight.abs().max() <= 1 / features**0.5
        assert torch.equal(model.conv_stem.weight, weights["conv_stem.weight"])
        begun.append(model.classifier.weight)
    assert torch.equal(*begun), "the seed's"
    fitting = timm.create_model("test_efficientnet", num_classes=4).state_dict()
    assert load_body(model, fitting, what="them") == ""
    assert torch.equal(model.classifier.weight, fitting["classifier.weight"])
