"""Recipes: checked values, overrides, the JSON round trip, the files in recipes/, and the papers' transforms."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms

from recipes.presets import PRESETS
from skd_plugins import Recipe, SkdError, replace
from skd_plugins.data import Augmentation
from skd_plugins.data.datasets import find_dataset
from skd_plugins.papers.tables.published import published
from skd_plugins.recipe import load_recipe, override
from skd_plugins.training.main import main as run_recipe
from skd_plugins.training.parts import build_scheduler
from skd_plugins.training.project import recipe_of

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py") if path.stem != "presets")


def part(name: str, begin: str, end: str) -> str:
    """A part of the docstring of a recipe file."""
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    return " ".join(text[text.index(begin) : text.index(end)].split())


@pytest.mark.parametrize("name", FILES)
def test_recipe_files(name: str, tmp_path: Path) -> None:
    text = part(name, "\nSource:", '"""\n\n')
    assert " Expected: " in text
    assert f" Run: accelerate launch recipes/{name}.py" in text
    recipe = recipe_of(name)
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", recipe.name)
    stored = tmp_path / "recipe.json"
    stored.write_text(json.dumps(recipe.to_json() | {"environment": {"versions": {}}}))
    assert load_recipe(stored) == recipe
    if name.startswith("imagenet"):
        assert (recipe.epochs, recipe.batch_size, recipe.milestones, recipe.lr_decay) == (90, 256, (30, 60), 0.1)
        assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.optimizer) == (0.1, 0.9, 1e-4, "momentum")
        assert (recipe.image_size, recipe.augment, recipe.crop_pct, recipe.hflip) == (224, "rrc", 0.875, 0.5)
    if name == "imagenet_r152_sddropout":
        assert recipe.method_args == {"weight": 0.1, "temperature": 3.0, "drop_rate": 0.5}


# What each network's recipes use, at 32 and at 224 pixels.
NETWORKS = {
    "cskd": {"": ("preact_resnet18_cifar", "resnet18"), "_densenet121": ("densenet121_cifar", "densenet121"),
             "_resnet10": ("preact_resnet10_cifar", "resnet10")},
    "sdd": {"": ("resnet18_cifar", "resnet18"), "_densenet121": ("densenet121_cifar", ""),
            "_resnet34": ("resnet34_cifar", "")},
}  # fmt: skip
STEPS = {  # an epoch, counted by hand
    "cifar100": 391, "tinyimagenet": 782, "cub200": 188, "dogs": 375, "mit67": 168, "mixed": 363,
    "imagenet-1k": 5005,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("cskd_", "sdd_"))])
def test_the_small_sets_recipes_state_the_papers_settings(name: str) -> None:
    recipe = recipe_of(name)
    paper, data = name.split("_")[:2]
    small = data in ("cifar100", "tinyimagenet")  # 32 pixels, batch 128; the others 224 and 32
    assert recipe.dataset == data
    assert recipe.model == NETWORKS[paper][name.removeprefix(f"{paper}_{data}")][0 if small else 1]
    assert recipe.name == f"{recipe.model}.{paper}_{data}"
    assert (recipe.epochs, recipe.milestones, recipe.lr_decay) == (200, (100, 150), 0.1)
    assert (recipe.schedule, recipe.decay_norm_and_bias) == ("multistep", True)
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.optimizer) == (0.1, 0.9, 1e-4, "momentum")
    assert recipe.model_args == ({"zero_init_last": False} if recipe.model == "resnet18" else {})
    assert (recipe.batch_size, recipe.image_size) == ((128, 32) if small else (32, 224))
    assert recipe.crop_pct == (1.0 if small else 0.875)
    assert (recipe.augment, recipe.hflip) == ("shift" if data == "cifar100" else "rrc", 0.5)
    spec, fields = Augmentation.of(recipe), ("image_size", "crop_pct", "hflip", "padding", "mean", "std")
    assert [getattr(spec, field) for field in fields] == [getattr(recipe, field) for field in fields]
    assert (spec.mode, spec.padding) == (recipe.augment, 4)
    assert (recipe.mean[0], recipe.std[2]) == ((0.4914, 0.2010) if data == "cifar100" else (0.485, 0.225))
    sdd = {"weight": 1.0, "temperature": 3.0, "drop_rate": 0.5}
    cs_kd = {"weight": 1.0 if small else 3.0, "temperature": 4.0, "pairing": "sampled"}
    assert (recipe.method, recipe.method_args) == (("sd_dropout", sdd) if paper == "sdd" else ("cs_kd", cs_kd))


MODERN = {  # batch size, steps an epoch, epochs, learning rate, and what the plan says
    "rsb_a3_r50": (2048, 626, 100, 8e-3, "training images 160 x 160 px augmentation random crop of 0.08 to 1 of the "
                   "area, flip 0.5, rand-m6-mstd0.5-inc1 parameters 25,557,032"),
    "rsb_a2_r50": (2048, 626, 300, 5e-3, "rand-m7-mstd0.5-inc1, 1/3 of the images an epoch, each 3 times"),
    "deit_s": (1024, 1252, 300, 1e-3, "rand-m9-mstd0.5-inc1, random erasing 0.25, 1/3 of the images an epoch, each 3 "
               "times"),
    "convnext_t": (4096, 313, 300, 4e-3, "rand-m9-mstd0.5-inc1, random erasing 0.25 parameters 28,589,128"),
}  # fmt: skip
OURS = ("digits", "glyphs", "fast", "finetune", *MODERN)  # of no table of the two papers


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(tuple(MODERN))])
def test_modern_recipes_state_their_sources_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, base = recipe_of(name), name.removesuffix("_ce").removesuffix("_sddropout").removesuffix("_cskd_bank")
    batch, steps, epochs, lr, said = MODERN[base]
    assert (recipe.batch_size, recipe.epochs, recipe.lr) == (batch, epochs, lr)
    rsb = name.startswith("rsb")
    assert (recipe.optimizer, recipe.weight_decay, recipe.loss) == (
        ("lamb", 0.02, "bce") if rsb else ("adamw", 0.05, "ce")
    )
    assert (recipe.label_smoothing, recipe.bce_threshold) == ((0.0, 0.2) if rsb else (0.1, None))
    assert recipe.crop_pct == (0.95 if rsb else 0.875)
    mixing = (0.0, 0.0) if name.endswith("cskd_bank") else (0.1 if rsb else 0.8, 1.0)
    assert (recipe.mixup, recipe.cutmix) == mixing
    method = {"ce": {}, "sd_dropout": {"weight": 0.1, "temperature": 3.0, "drop_rate": 0.5},
              "cs_kd": {"weight": 1.0, "temperature": 4.0, "pairing": "bank"}}  # fmt: skip
    assert recipe.method_args == method[recipe.method]
    assert (recipe.ema_decay is not None) == (base == "convnext_t")
    run_recipe(recipe, ["--dry-run"])
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert f"{recipe.model}, 1000 classes, 224 x 224 px" in printed
    assert f"steps an epoch {steps:,} steps {steps * epochs:,} " in printed
    assert f"rates 0 first, {lr:g} highest, {recipe.min_lr:g} last" in printed


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(OURS)])
def test_plans_need_no_data(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The data set is registered, the network is built for its classes, and the steps are counted."""
    recipe = recipe_of(name)
    run_recipe(recipe, ["--dry-run"])
    printed = " ".join(capsys.readouterr().out.split())
    classes = find_dataset(recipe.dataset).classes
    assert f"{recipe.model}, {classes} classes, {recipe.image_size} x {recipe.image_size} px" in printed
    assert f"assumed to be {recipe.dataset}" in printed
    assert f"steps an epoch {STEPS[recipe.dataset]:,} steps {recipe.epochs * STEPS[recipe.dataset]:,} " in printed


@pytest.mark.parametrize(("epochs", "start", "end"), [(16, 11, 13), (40, 29, 34), (88, 65, 76)])
def test_fast_recipes_have_ffcv_imagenets_sizes_and_rates(
    epochs: int, start: int, end: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ramp from 160 to 192 px, in multiples of 32, and its rate: linear to 1.7 in 2 epochs, then to 0."""
    recipe = replace(recipe_of("fast_r50_ce"), epochs=epochs)
    spec = Augmentation.of(recipe)
    ramp = np.interp(range(epochs), [start, end], [160, 192])
    assert [spec.size(epoch) for epoch in range(epochs)] == [32 * int(np.round(side / 32)) for side in ramp]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = build_scheduler(recipe, optimizer, 10)
    assert scheduler is not None
    rates = []
    for step in range(10 * epochs):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, np.interp(np.arange(10 * epochs) / 10, [0, 2, epochs], [0, 1.7, 0]), atol=1e-12)
    run_recipe(recipe_of("fast_r50_cskd_bank"), ["--dry-run", f"epochs={epochs}"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "resnetblur50, 1000 classes, 256 x 256 px training images 160 x 160 px, after " in printed
    assert f"after {spec.sizes[1][0]} epochs 192 x 192 px" in printed
    assert f"steps an epoch 313 steps {313 * epochs:,} " in printed


LABELS = {
    "cifar100": "CIFAR-100", "tinyimagenet": "TinyImageNet", "cub200": "CUB-200-2011", "dogs": "Stanford Dogs",
    "mit67": "MIT67", "imagenet-1k": "ImageNet", "ce": "cross-entropy", "cs_kd": "cs-kd", "sd_dropout": "sd-dropout",
    "resnet10": "ResNet-10", "resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50",
    "resnet101": "ResNet-101", "resnet152": "ResNet-152", "resnext101_32x4d": "ResNeXt-101-32x4d",
    "densenet121": "DenseNet-121",
}  # fmt: skip
TABLES = {  # of top-1 errors and accuracies
    "cskd": ("cs-kd/table1", "cs-kd/table4"), "sdd": ("sd-dropout/table1", "sd-dropout/table10"),
    "imagenet": ("cs-kd/table5", "sd-dropout/table3"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(OURS) and name != "cskd_mixed"])
def test_expected_numbers_are_the_published_ones(name: str) -> None:
    recipe, expected = recipe_of(name), part(name, "Expected:", "Run:")
    network = recipe.model.removeprefix("preact_").removesuffix("_cifar")
    found = {
        (row.method.lower(), row.metric): f"{row.value}{f' +- {row.std}' if row.std else ''}"
        for row in published()
        if (row.id in TABLES[name.partition("_")[0]] and not row.derived)
        and (row.architecture, row.dataset) == (LABELS[network], LABELS[recipe.dataset])
    }
    own = {metric: value for (method, metric), value in found.items() if method == LABELS[recipe.method]}
    if not own:  # SD-Dropout on CS-KD's ImageNet networks
        assert "no published number" in expected
    for metric, value in own.items():
        kind = "error" if "error" in metric else "accuracy"
        assert re.search(rf"Expected: .*{re.escape(value)} % {metric[:3]}-{metric[3]}.* {kind}", expected)
        if recipe.method != "ce":
            assert found["cross-entropy", metric] in expected.partition("(cross-entropy ")[2]


BASE = Recipe(name="a.b", method="sd_dropout", method_args={"weight": 0.1})


def test_overrides() -> None:
    changed = override(
        BASE, ["epochs=10", "lr=1e-4", "milestones=[1,2]", "method_args.weight=0.5", "ema_decay=0.99", "seed=3"]
    )
    assert (changed.epochs, changed.lr, changed.milestones, changed.ema_decay) == (10, 1e-4, (1, 2), 0.99)
    assert changed.method_args == {"weight": 0.5}
    assert override(BASE, ["method_args.temperature=2"]).method_args == {"weight": 0.1, "temperature": 2}
    assert override(BASE, ['method_args={"temperature": 2}']).method_args == {"temperature": 2}
    assert override(BASE, ["method=cs_kd"]).method_args == {}
    assert override(BASE, ["method=cs_kd"]).name == f"{BASE.name}_method=cs_kd"
    assert override(BASE, ["method=cs_kd", "name=a.b"]).name == "a.b"
    assert override(BASE, ["method=cs_kd", "method_args.pairing=bank"]).method_args == {"pairing": "bank"}
    assert override(BASE, ["method_args.base=cs_kd", "method_args.base_args.pairing=bank"]).method_args == {
        "weight": 0.1, "base": "cs_kd", "base_args": {"pairing": "bank"},
    }  # fmt: skip
    assert override(BASE, ["compile=true", "channels_last=False", "clip_grad=null"]).clip_grad is None


BAD = {
    "epoch=3": "unknown recipe field 'epoch'; did you mean 'epochs'",
    "weight=2": "an argument of the method or network is method_args.NAME=",
    "epochs": "expected field=value, got 'epochs'",
    "epochs=0": "epochs should be greater than or equal to 1",
    "lr=fast": "lr should be a valid number",
    "precision=fp8": "precision should be 'no', 'bf16' or 'fp16'",
    "hflip=2": "hflip should be less than or equal to 1",
    "name=a/b": "plain file name",
    "lr=nan": "lr should be",
    "cutmix=Infinity": "cutmix should be a finite number",
    "lr_decay=NaN": "lr_decay should be a finite number",
    "save_minutes=NaN": "save_minutes should be a finite number",
    "save_minutes=-1": "save_minutes should be greater than or equal to 0",
    "timeout_minutes=1e300": "timeout_minutes should be less than or equal to 1000000",
    "padding=9223372036854775808": "padding should be less than or equal to 2147483647",
    'name="a\\u0000b"': "name should be a plain file name",
    "clip_grad=0": "clip_grad should be greater than 0",
    "milestones=[60,30]": "milestones should be in ascending order",
    "train_sizes=[[0.5,64]]": "train_sizes should begin with share 0 and ascend",
    "train_sizes=[[0,64],[0,96]]": "train_sizes should begin with share 0 and ascend",
    "train_sizes=[[0,0]]": "train_sizes should be greater than or equal to 1",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_overrides(text: str) -> None:
    with pytest.raises(SkdError, match=re.escape(BAD[text]) if "should be" not in BAD[text] else BAD[text]):
        override(BASE, [text])


@given(lr=st.floats(0, 1e6), epochs=st.integers(1, 10**6), seed=st.integers(0, 2**31), name=st.text("ab._", min_size=3))
def test_json_round_trip(lr: float, epochs: int, seed: int, name: str) -> None:
    recipe = replace(BASE, lr=lr, epochs=epochs, seed=seed, name=name)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(SkdError, match="does not exist"):
        load_recipe(path)
    for text, message in [("{", "is not a recipe"), ('{"nam": 1}', "did you mean 'name'"), ("{}", "no field 'name'"),
                          ('{"a":' * 10**5, "is not a recipe: recursion limit"), ("[]", "is not a recipe: content: "),
                          ('{"name": "a.b", "epochs": 0}', r"recipe\.json: epochs should be")]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(SkdError, match=message):
            load_recipe(path)


# ---- a preset gives what torchvision's transforms, as the authors wrote them, give -----------------------------------


def spec_of(preset: str) -> Augmentation:
    """As the engine makes it of a recipe."""
    return Augmentation.of(replace(Recipe(name="a.b"), **PRESETS[preset]))


def test_both_papers_transforms_are_the_same() -> None:
    for name in ("cifar100", "cub200", "dogs", "imagenet-1k"):
        assert PRESETS[f"cskd/{name}"] == PRESETS[f"sdd/{name}"]


def test_random_sized_crops_are_torchvisions() -> None:
    """Its defaults, which the authors leave as they are."""
    crop: Any = transforms.RandomResizedCrop(224)
    for preset, fields in PRESETS.items():
        if fields["augment"] == "rrc":
            spec = spec_of(preset)
            assert (spec.scale, spec.ratio) == (crop.scale, pytest.approx(crop.ratio))
            assert spec.image_size == {"cskd/tinyimagenet": 32, "fast/imagenet-1k": 256}.get(preset, crop.size[0])
            modern = preset.startswith(("rsb", "deit", "convnext"))
            assert spec.interpolation == ("bicubic" if modern else crop.interpolation.value)
