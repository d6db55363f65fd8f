"""The manifest: what it refuses, names that can't leave the cache, and that all it lists is there."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from skd_plugins.weights.places import places
from skd_plugins.weights.transfer import has_content

from skd_plugins import Recipe, SkdError, create_model, load_weights, replace, train
from skd_plugins.cli import main
from skd_plugins.evaluation.command import evaluate_weights
from skd_plugins.weights import load_network, read_weights
from skd_plugins.weights.download import download, release_folder
from skd_plugins.weights.manifest import MANIFEST, check_name, find_release, load_manifest

SHIPPED = ("resnet10t_digits.ce", "resnet10t_digits.cskd", "resnet10t_digits.sdd")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- names -----------------------------------------------------------------------------------------------------------

HOSTILE = ["", ".", "..", "../x", "../x.y", "/etc/passwd", "a.b/../../c", "a", "a.", ".a", "a..b", "a.b\n", "a\0.b",
           "-a.b", "a b.c", "é.b", "~.ssh", "C:\\x.y", f"{'a' * 99}.b"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str, cache: Path) -> None:
    with pytest.raises(SkdError, match="is not a name of weights: arch.tag"):
        find_release(name)
    with pytest.raises(SkdError, match="is not a name of weights: arch.tag"):
        release_folder(name)
    with pytest.raises(SkdError) as error:
        read_weights(name or "\0")
    assert "\n" not in str(error.value)
    assert not cache.exists()


@given(st.text() | st.from_regex(r"[\w.\-/\\\0~ ]{0,20}", fullmatch=True))
@example("a.b")
def test_a_name_is_a_folder_directly_in_the_cache_or_refused(name: str) -> None:
    root = Path("/cache/weights")
    try:
        assert check_name(name) == name
    except SkdError:
        return
    assert (root / name).parent == root
    assert Path(*(root / name).parts).name == name
    assert name not in (".", "..")
    assert name.isascii()
    assert "." in name


@given(st.from_regex(r"[a-z0-9][a-z0-9_]{0,40}\.[a-z0-9][a-z0-9_]{0,40}", fullmatch=True))
def test_names_like_timms_are_taken(name: str) -> None:
    assert check_name(name) == name


# ---- entries ---------------------------------------------------------------------------------------------------------


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(MANIFEST.read_text())
    change(manifest)
    return manifest


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, leaf = key.split("/")
        place: Any = manifest["weights"][0]
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[int(leaf) if leaf.isdigit() else leaf] = value

    return change


BAD = {
    "sha that is short": (put("files/0/sha256", "abc"), "weights.0.files.0.sha256: String should match"),
    "sha with a newline": (put("files/0/sha256", "0" * 64 + "\n"), "files.0.sha256: String should match"),
    "sha in capitals": (put("files/0/sha256", "A" * 64), "files.0.sha256: String should match"),
    "no size": (put("files/0/size", 0), "files.0.size: Input should be greater than 0"),
    "file elsewhere": (put("files/0/name", "../model.safetensors"), "'../model.safetensors' is not a plain file name"),
    "hidden file": (put("files/0/name", ".lock"), "'.lock' is not a plain file name"),
    "file twice": (put("files/0/name", "config.json"), "resnet10t_digits.ce has a file twice"),
    "no weights": (put("files/2/name", "model.bin"), "resnet10t_digits.ce has no model.safetensors"),
    "http": (put("urls/0", "http://host.example/x"), "'http://host.example/x' is none of https://"),
    "ftp": (put("urls/0", "ftp://host.example/x"), "is none of https://"),
    "file of this folder": (put("urls/0", "file:x"), "is none of https://"),
    "package elsewhere": (put("urls/0", "package:../x"), "is none of https://"),
    "half a repository": (put("urls/0", "hf://owner"), "is none of https://"),
    "no address": (put("urls", []), "urls: Tuple should have at least 1 item"),
    "hostile name": (put("name", "../x"), "weights.0.name: '../x' is not a name of weights"),
    "unknown field": (put("sha512", ""), "weights.0.sha512: Extra inputs are not permitted"),
    "metric that is no number": (put("metrics/top1", "high"), "metrics.top1"),
    "name twice": (lambda all: all["weights"].append(copy.deepcopy(all["weights"][0])), "digits.ce is there twice"),
    "later version": (lambda all: all.update(version=2), "version: Input should be 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entries_are_refused(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(changed(change)))
    with pytest.raises(SkdError, match=re.escape(message)) as error:
        load_manifest(path)
    assert str(path) in str(error.value)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(SkdError, match="is not a readable manifest"):
        load_manifest(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"version": 1, ')
    with pytest.raises(SkdError, match="half.json: content: Invalid JSON"):
        load_manifest(tmp_path / "half.json")


# ---- what is listed --------------------------------------------------------------------------------------------------


def test_what_ships_is_there() -> None:
    assert tuple(load_manifest()) == SHIPPED
    for release in load_manifest().values():
        for file in release.files:
            path = places(release, file.name)[0]
            assert isinstance(path, Path)
            assert has_content(path, file), path
            assert file.size < 2_000_000
            assert "/work" not in path.read_bytes().decode("utf-8", errors="ignore")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_reach_the_manifests_metrics(name: str, digits_beton: Path, tmp_path: Path) -> None:
    report = evaluate_weights(name, data=str(digits_beton), out=tmp_path)
    metrics = json.loads((report.parent / "metrics.json").read_text())["metrics"]
    expected = find_release(name).metrics
    assert metrics.keys() == expected.keys()
    for key in ("top1", "top5", "recall_at_1", "num_samples"):
        assert metrics[key] == expected[key], key
    for key in ("nll", "ece", "ece_10"):  # equal in every digit where they were made, not on every processor
        assert metrics[key] == pytest.approx(expected[key], rel=1e-5), key


def test_every_way_to_load_gives_the_same_network() -> None:
    import timm

    name = SHIPPED[2]
    network, card = load_network(name)
    assert (card["name"], card["recipe"]["method"]) == (name, "sd_dropout")
    plain = timm.create_model("resnet10t", num_classes=10, channels=(16, 32, 64, 128)).eval()
    plain.load_state_dict(load_weights(name))
    created = create_model(name, pretrained=True)
    assert created.training
    of_timm = timm.create_model(f"local-dir:{release_folder(name)}", pretrained=True).eval()
    input = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(input)
        for model in (plain, created.eval(), of_timm):
            assert torch.equal(model(input), expected)
    assert list(of_timm.pretrained_cfg["mean"]) == card["mean"]
    other = create_model(name, num_classes=3, pretrained=True).eval()
    assert other(input).shape == (2, 3)
    assert torch.equal(other.state_dict()["layer4.0.conv1.weight"], load_weights(name)["layer4.0.conv1.weight"])
    with pytest.raises(SkdError, match="model_args"):
        create_model(name, pretrained=True, chanels=3)


def test_the_folder_weights_comes_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = SHIPPED[0]
    folder = download(find_release(SHIPPED[1]))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{name}.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    card = json.loads((folder / "config.json").read_text())["skd"]
    (tmp_path / "weights" / f"{name}.json").write_text(json.dumps(card))
    assert read_weights(name)[1]["name"] == name
    monkeypatch.chdir(tmp_path)
    assert read_weights(name)[1]["name"] == SHIPPED[1]


def test_a_run_starts_from_a_name(digits_beton: Path, tmp_path: Path) -> None:
    card = load_network(SHIPPED[0])[1]
    recipe = replace(
        Recipe.from_json(card["recipe"]), initial_weights=SHIPPED[0], max_steps=1, lr=0.0, warmup_epochs=0,
        schedule="constant", trackers=(),
    )  # fmt: skip
    state = torch.load(train(recipe, data=str(digits_beton), out=tmp_path) / "last.pt", weights_only=True)
    assert torch.equal(state["state_dict"]["conv1.0.weight"], load_weights(SHIPPED[0])["conv1.0.weight"])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = SHIPPED[2]
    path = cache / "weights" / name / "model.safetensors"

    def run(*arguments: str) -> str:
        main(["weights", *arguments])
        return capsys.readouterr().out

    def fails(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["weights", *arguments])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert [line.split()[4] for line in run("list").splitlines() if line.split()[0] in SHIPPED] == ["no"] * 3
    assert f"{name} is not in the cache" in fails("verify", name)
    assert run("download", name) == f"{path}\n"
    assert run("path", name) == f"{path}\n"
    assert run("verify", name) == f"{name}: verified, {path}\n"
    assert [line.split()[4] for line in run("list").splitlines() if line.split()[0] in SHIPPED] == ["no", "no", "yes"]
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} was not what the manifest states and is deleted" in fails("verify", name)
    assert not path.exists()
    assert "unknown weights 'resnet10t_digits.sd'; did you mean 'resnet10t_digits.sdd'?" in fails(
        "path", "resnet10t_digits.sd"
    )
    assert "is not a name of weights" in fails("download", "../../etc")
    assert "needs a name" in fails("verify")
    assert "takes no names" in fails("list", name)
