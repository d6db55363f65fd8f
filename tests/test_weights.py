"""Export: the file loads in plain timm and torchvision, and evaluates to what the run did."""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import TINY_RECIPE
from safetensors.torch import load_file, save_file

from skd_plugins import Recipe, SkdError, create_model, create_task, export_weights, load_weights, replace, train
from skd_plugins.evaluation.comparison import group_runs, read_run
from skd_plugins.evaluation.evaluate import evaluate_weights
from skd_plugins.networks.features import forward_with_features
from skd_plugins.recipe import load_recipe
from skd_plugins.weights import load_network

RECIPE = replace(
    TINY_RECIPE, name="resnet10t_digits.tiny", method="sd_dropout", batch_size=50, image_size=32, ema_decay=0.5,
    method_args={"base": "cs_kd", "base_args": {"pairing": "bank"}, "weight": 0.1},
)  # fmt: skip


@pytest.fixture(scope="session")
def run(digits_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(RECIPE, data=str(digits_beton), out=tmp_path_factory.mktemp("weights"))


def test_another_classifier_travels_with_the_card(digits_beton: Path, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, name="resnet10t_digits.head", model_args={"channels": [8, 8, 16, 16], "classifier": "cosine"},
        method="adacos", method_args={}, ema_decay=None, epochs=1,
    )  # fmt: skip
    run = train(recipe, data=str(digits_beton), out=tmp_path / "runs")
    trained = torch.load(run / "last.pt", weights_only=True)["state_dict"]
    path = export_weights(run, tmp_path / "weights")
    model, card = load_network(path)
    assert card["model_args"]["classifier"] == "cosine"
    assert model.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
    assert trained["fc.scale"].item() != pytest.approx(2**0.5 * torch.tensor(9.0).log().item(), rel=1e-3)
    input = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features, logits = forward_with_features(model, input)
        assert torch.equal(model(input), logits)
    w = torch.nn.functional.normalize(trained["fc.weight"])
    torch.testing.assert_close(logits, torch.nn.functional.normalize(features) @ w.T * trained["fc.scale"])
    teacher = create_task("kd", create_model("resnet10t", num_classes=10), teacher=str(path), base="cs_kd")
    with torch.no_grad():
        assert torch.equal(teacher.method._teacher[0](input), logits), "an exported network teaches"


def test_export_loads_in_plain_timm(run: Path, tmp_path: Path) -> None:
    state = torch.load(run / "last.pt", weights_only=True)
    for ema, key in ((None, "state_dict_ema"), (False, "state_dict")):
        path = export_weights(run, tmp_path / key, ema=ema)
        assert path.name == "resnet10t_digits.tiny.safetensors"
        plain = timm.create_model("resnet10t", num_classes=10, channels=(8, 8, 16, 16)).eval()
        plain.load_state_dict(load_file(path))
        for name, value in plain.state_dict().items():
            assert torch.equal(value, state[key][name]), name
        model, card = load_network(path)
        input = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(model(input), plain(input))
        assert card["ema"] == (ema is None)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["size"] == path.stat().st_size
    assert card["classes"] == [str(label) for label in range(10)]
    assert (card["mean"], card["std"]) == (list(RECIPE.mean), list(RECIPE.std))
    assert (card["epoch"], card["step"]) == (2, 8)
    assert Recipe.from_json(card["recipe"]) == RECIPE
    assert sorted(item.name for item in path.parent.iterdir()) == [f"{RECIPE.name}.json", f"{RECIPE.name}.safetensors"]


def test_run_checkpoint_and_export_evaluate_alike(run: Path, digits_beton: Path, tmp_path: Path) -> None:
    exported = export_weights(run, tmp_path)
    metrics = []
    for index, weights in enumerate((run, run / "last.pt", exported)):
        report = evaluate_weights(weights, data=str(digits_beton), out=tmp_path / str(index))
        assert report.read_text().startswith("<!")
        metrics.append(json.loads((report.parent / "metrics.json").read_text())["metrics"])
    assert metrics[0] == metrics[1] == metrics[2]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in logged if line["event"] == "validate"][-1]
    assert metrics[0]["num_samples"] == last["count"] == 797
    assert metrics[0]["top1"] == last["top1"], "skd evaluate agrees with the run's own validation"
    assert metrics[0]["nll"] == pytest.approx(last["nll"], rel=1e-5)


def test_no_evaluation_replaces_another(
    run: Path, digits_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last checkpoint, as it is, goes where comparisons look; a pair of exported files can share a folder."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation*"))
    shutil.copy(copy / "last.pt", copy / "epoch0020.pt")
    exported = [export_weights(run, tmp_path / "weights", name=f"resnet10t.{tag}") for tag in ("one", "two")]
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str | Path, dict[str, Any], str]] = [
        (copy, {}, "run/evaluation"),
        (copy, {"raw": True}, "run/evaluation-raw"),
        (copy, {"which": "best"}, "run/evaluation-best"),
        (copy / "best.pt", {"raw": True, "attack": "fgsm", "eps": 0.1}, "run/evaluation-best-raw-fgsm-eps0.1"),
        (copy / "epoch0020.pt", {}, "run/evaluation-epoch0020"),
        (copy, {"attack": "fgsm", "eps": 8 / 255}, "run/evaluation-fgsm"),
        (copy, {"attack": "fgsm", "eps": 0.1}, "run/evaluation-fgsm-eps0.1"),
        (copy, {"image_size": 40, "flip": True}, "run/evaluation-40px-flip"),
        (exported[0], {}, "weights/evaluation-resnet10t.one"),
        (exported[1], {"raw": True}, "weights/evaluation-resnet10t.two"),
        ("resnet10t.one", {"attack": "fgsm"}, "evaluation-fgsm/resnet10t.one"),
    ]
    data = str(digits_beton / "train.beton")  # fewer images than val.beton
    nll, recipe_side = {}, load_recipe(copy / "recipe.json").image_size
    for weights, how, place in asked:
        report = evaluate_weights(weights, data=data, **how)
        assert report.parent.resolve() == tmp_path / place
        content = json.loads((report.parent / "metrics.json").read_text())
        assert content["info"].get("attack") == how.get("attack")
        assert content["info"]["image size"] == how.get("image_size", recipe_side)
        assert content["info"].get("flip") == how.get("flip")
        nll[place.removeprefix("run/evaluation")] = content["metrics"]["nll"]
    assert nll[""] < nll["-fgsm"] < nll["-fgsm-eps0.1"]
    with pytest.raises(
        SkdError, match=r"has the evaluation on .*train.beton; give another folder for .*val.beton: --out"
    ):
        evaluate_weights(copy, data=str(digits_beton))
    with pytest.raises(SkdError, match="choose one: --attack fgsm"):
        evaluate_weights(copy, data=data, eps=0.1)
    with pytest.raises(SkdError, match="image_size should be greater than or equal to 1"):
        evaluate_weights(copy, data=data, image_size=0)
    with pytest.raises(SkdError, match="8/255"):
        evaluate_weights(copy, data=data, attack="fgsm", eps=8)
    names = [(group.name, len(group.runs)) for group in group_runs([read_run(place) for _, _, place in asked[1:3]])]
    assert names == [("resnet10t_digits.tiny, raw", 1), ("resnet10t_digits.tiny, best", 1)]


def test_checkpoints_of_other_programs(run: Path, digits_beton: Path, tmp_path: Path) -> None:
    state = torch.load(run / "last.pt", weights_only=True)["state_dict"]

    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}{key}": value for key, value in state.items()}

    average = {"n_averaged": torch.tensor(3), **under("module.")}
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    contents: dict[str, dict[str, Any]] = {
        "plain": state, "compiled": under("_orig_mod."), "compiled_ddp": under("_orig_mod.module."),
        "ddp_compiled": under("module._orig_mod."), "averaged": average, "torchvision": {"model": zeros, "epoch": 3,
        "optimizer": {}, "args": argparse.Namespace(lr=0.1), "model_ema": average},
        "lightning": {"state_dict": under("model._orig_mod.") | {"criterion.weight": torch.ones(10)}, "epoch": 1},
        "timm": {"state_dict": zeros, "state_dict_ema": state, "arch": "resnet10t", "args": argparse.Namespace()},
    }  # fmt: skip
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth.tar")
        found = load_weights(tmp_path / f"{name}.pth.tar")
        assert list(found) == list(state), name
        assert all(torch.equal(found[key], value) for key, value in state.items()), name
    (tmp_path / "own.py").write_text(f"from skd_plugins import Recipe\nrecipe = Recipe(**{RECIPE.to_json()!r})")
    with pytest.raises(SkdError, match=r"timm.pth.tar has no card that names its network; .* with --recipe FILE"):
        evaluate_weights(tmp_path / "timm.pth.tar", data=str(digits_beton))
    with pytest.raises(SkdError, match=r"last.pt has a card that names its network; leave the recipe out"):
        evaluate_weights(run / "last.pt", data=str(digits_beton), recipe=tmp_path / "own.py")
    found, expected = (
        json.loads(
            evaluate_weights(file, data=str(digits_beton), out=tmp_path, **how).with_name("metrics.json").read_text()
        )
        for file, how in ((run, {"raw": True}), (tmp_path / "timm.pth.tar", {"recipe": tmp_path / "own.py"}))
    )
    assert found["metrics"] == expected["metrics"]


def test_classes_that_torchvision_orders_otherwise(
    run: Path, jpeg_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(jpeg_folder, tmp_path / "val")
    classes = sorted(path.name for path in data.iterdir())
    torch.save(create_model("resnet10t", num_classes=len(classes)).state_dict(), tmp_path / "net.pth")
    (tmp_path / "own.py").write_text(
        'from skd_plugins import Recipe\nrecipe = Recipe(name="a.b", model="resnet10t", image_size=32, workers=0)'
    )
    for renamed in ({}, {classes[-1]: "B", classes[0]: "a"}):
        for old, new in renamed.items():
            (data / old).rename(data / new)
        out = tmp_path / str(len(renamed))
        evaluate_weights(tmp_path / "net.pth", data=str(data), recipe=tmp_path / "own.py", out=out)
        assert ("would get wrong results" in capsys.readouterr().err) == bool(renamed)


def test_errors(run: Path, digits_beton: Path, jpeg_folder: Path, tmp_path: Path) -> None:
    exported = export_weights(run, tmp_path)
    for name in (tmp_path / "no.safetensors", tmp_path / "no.pt", tmp_path, "no.tag"):
        with pytest.raises(SkdError, match="does not exist|there are no weights 'no.tag'"):
            load_network(name)
    with pytest.raises(SkdError, match="10 classes, .* has 3"):
        evaluate_weights(exported, data=str(jpeg_folder), out=tmp_path / "e")

    whole = exported.read_bytes()
    exported.write_bytes(whole[:1000])
    with pytest.raises(SkdError, match="damaged"):
        load_network(exported)
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    exported.write_bytes(flipped)
    with pytest.raises(SkdError, match="is damaged, or not the (file|one) .*SHA-256 differs"):
        load_network(exported)
    card = exported.with_suffix(".json")  # what somebody else made need not have a checksum
    sound = {key: value for key, value in json.loads(card.read_text()).items() if key != "sha256"}
    card.write_text(json.dumps(sound))
    exported.write_bytes(whole)
    tensors = load_file(exported)
    tensors["fc.weigth"] = tensors.pop("fc.weight")
    save_file(tensors, exported)
    with pytest.raises(SkdError, match=r"1 missing: fc.weight; 1 unexpected: fc.weigth"):
        load_network(exported)
    save_file({**load_file(exported), "fc.weight": torch.zeros(7, 16)}, exported)
    with pytest.raises(SkdError, match=r"1 of another shape: fc.weight \[7, 16\] instead of \[10, 16\]"):
        load_network(exported)
    for content, reason in [({}, "model: Field required"), (sound | {"mean": [0.5, 0.5]}, "mean.2")]:
        card.write_text(json.dumps(content))
        with pytest.raises(SkdError, match=f"is not a weights card: {reason}"):
            load_network(exported)
    card.unlink()
    with pytest.raises(SkdError, match="has no card that names its network"):
        load_network(exported)
