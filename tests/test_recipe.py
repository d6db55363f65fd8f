"""Recipes: checked values, overrides, the JSON round trip, and the files in recipes/."""

from __future__ import annotations

import csv
import json
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_plugins import Recipe, SkdError, replace
from skd_plugins.recipe import load_recipe, override
from skd_plugins.typed import parse_assignments

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "recipes").glob("*.py"))
WANTED = {
    *(f"imagenet_{net}_{method}" for net in ("r50", "r101", "resnext101") for method in ("ce", "cskd", "sddropout")),
    "imagenet_r152_ce", "imagenet_r152_sddropout", "digits_ce", "digits_cskd", "digits_sddropout",
}  # fmt: skip


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.syspath_prepend(str(path.parent))
    recipe = runpy.run_path(str(path), run_name="recipe")["recipe"]
    assert isinstance(recipe, Recipe)
    return recipe


def test_all_recipes_are_there() -> None:
    assert {path.stem for path in FILES} >= WANTED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_files(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = path.read_text()
    assert all(f"\n{label}:" in text for label in ("Source", "Expected", "Run")), (
        "the docstring says where it comes from"
    )
    assert f"accelerate launch recipes/{path.name}" in text
    recipe = read(path, monkeypatch)
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", recipe.name)
    stored = tmp_path / "recipe.json"
    stored.write_text(json.dumps(recipe.to_json() | {"environment": {"versions": {}}}))
    assert load_recipe(stored) == recipe


def test_recipes_state_the_papers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in FILES:
        recipe = read(path, monkeypatch)
        if path.stem.startswith("imagenet"):
            assert (recipe.epochs, recipe.batch_size, recipe.milestones, recipe.lr_decay) == (90, 256, (30, 60), 0.1)
            assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.optimizer) == (0.1, 0.9, 1e-4, "momentum")
            assert (recipe.image_size, recipe.augment, recipe.crop_pct, recipe.hflip) == (224, "rrc", 0.875, 0.5)
        if path.stem == "imagenet_r152_sddropout":
            assert recipe.method_args == {"weight": 0.1, "temperature": 3.0, "drop_rate": 0.5}


def test_expected_numbers_are_the_published_ones(shared_results: list[dict[str, str]]) -> None:
    """The recipes' docstrings against the papers' tables."""
    nets = {"ResNet-50": "r50", "ResNet-101": "r101", "ResNeXt-101-32x4d": "resnext101", "ResNet-152": "r152"}
    methods = {"Cross-entropy": "ce", "Cross-Entropy": "ce", "CS-KD": "cskd", "SD-Dropout": "sddropout"}
    for row in shared_results:
        text = (ROOT / "recipes" / f"imagenet_{nets[row['architecture']]}_{methods[row['method']]}.py").read_text()
        expected = text[text.index("Expected:") : text.index("Run:")]
        assert row["value"] in expected, row


@pytest.fixture
def shared_results() -> list[dict[str, str]]:
    text = """architecture,method,value
ResNet-50,Cross-entropy,24.0
ResNet-50,CS-KD,23.6
ResNet-101,Cross-entropy,22.4
ResNet-101,CS-KD,22.0
ResNeXt-101-32x4d,Cross-entropy,21.6
ResNeXt-101-32x4d,CS-KD,21.2
ResNet-152,Cross-Entropy,74.8
ResNet-152,Cross-Entropy,92.5
ResNet-152,SD-Dropout,75.5
ResNet-152,SD-Dropout,92.7
"""
    return list(csv.DictReader(text.splitlines()))


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
    assert override(BASE, ["method=cs_kd", "method_args.pairing=bank"]).method_args == {"pairing": "bank"}
    assert override(BASE, ["method_args.base=cs_kd", "method_args.base_args.pairing=bank"]).method_args == {
        "weight": 0.1, "base": "cs_kd", "base_args": {"pairing": "bank"},
    }  # fmt: skip
    assert override(BASE, ["compile=true", "channels_last=False", "clip_grad=null"]).clip_grad is None


BAD = {
    "epoch=3": "unknown recipe field 'epoch'; did you mean 'epochs'",
    "epochs": "expected field=value, got 'epochs'",
    "epochs=abc": "epochs should be a valid integer",
    "epochs=0": "epochs should be at least 1",
    "epochs=1.5": "epochs should be a valid integer",
    "lr=fast": "lr should be a valid number",
    "lr=-1": "lr should be at least 0",
    "precision=fp8": "precision should be 'no', 'bf16' or 'fp16'",
    "scale=[1]": "scale should be",
    "hflip=2": "hflip should be from 0 to 1",
    "method_args=3": "method_args should be a valid dictionary",
    "name=a/b": "plain file name",
    "lr=nan": "lr should be",
}


def test_there_are_bad_values() -> None:
    assert BAD


@pytest.mark.parametrize("text", BAD)
def test_bad_overrides(text: str) -> None:
    with pytest.raises(SkdError, match=re.escape(BAD[text]) if "should be" not in BAD[text] else BAD[text]):
        override(BASE, [text])


def test_yaml_like_numbers_are_numbers() -> None:
    """PyYAML reads 1e-4 as a string; this does not."""
    assert parse_assignments(["a=1e-4", "b=1.0", "c=x", "d.e=[1]"]) == {"a": 1e-4, "b": 1.0, "c": "x", "d": {"e": [1]}}


@given(
    lr=st.floats(0, 1e6), epochs=st.integers(1, 10**6), seed=st.integers(0, 2**31), name=st.text("abc._", min_size=3)
)
def test_json_round_trip(lr: float, epochs: int, seed: int, name: str) -> None:
    if name in (".", ".."):
        return
    recipe = replace(BASE, lr=lr, epochs=epochs, seed=seed, name=name)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(SkdError, match="does not exist"):
        load_recipe(path)
    for text, message in [
        ("{", "is not a recipe"),
        ("[]", "expected an object"),
        ('{"nam": 1}', "did you mean 'name'"),
        ("{}", "no field 'name'"),
    ]:
        path.write_text(text)
        with pytest.raises(SkdError, match=message):
            load_recipe(path)
