"""The manifest: what it refuses, names that can't leave the cache, and that all it lists is there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from skd_plugins import SkdError, create_model, load_weights
from skd_plugins.cli import main
from skd_plugins.common.files import file_sha256
from skd_plugins.evaluation.evaluate import evaluate_weights
from skd_plugins.weights import load_network, read_weights
from skd_plugins.weights.download import release_folder
from skd_plugins.weights.manifest import MANIFEST, find_release, load_manifest

SHIPPED = ("resnet10t_digits.ce", "resnet10t_digits.cskd", "resnet10t_digits.sdd")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["", "../x.y", "a.b/../../c", "a", "a..b", "a.b\n", "a\0.b", f"{'a' * 99}.b"])
def test_hostile_names_are_refused(name: str, cache: Path) -> None:
    for use in (find_release, release_folder):
        with pytest.raises(SkdError, match="is not a name of weights; names are arch.tag"):
            use(name)
    with pytest.raises(SkdError) as error:
        read_weights(name or "\0")
    assert "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("weights/0/files/0/sha256", "0" * 64 + "\n", "weights.0.files.0.sha256: String should match"),
        ("weights/0/files/0/name", "../model.safetensors", "files.0.name: String should match"),
        ("weights/0/urls/0", "ftp://host.example/x", "'ftp://host.example/x' is not an address of a release; give"),
        ("weights/0/name", "../x", "'../x' is not a name of weights"),
        ("version", 2, "version: Input should be 1"),
        ("", None, "content: Invalid JSON"),
    ],
)
def test_bad_entries_are_refused(place: str, value: object, message: str, tmp_path: Path) -> None:
    manifest: Any = json.loads(MANIFEST.read_text())
    at = manifest
    *parents, leaf = place.split("/")
    for parent in parents:
        at = at[int(parent) if parent.isdigit() else parent]
    at[int(leaf) if leaf.isdigit() else leaf] = value
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest)[: None if place else -9])
    with pytest.raises(SkdError, match=re.escape(message)) as error:
        load_manifest(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_reach_the_manifests_metrics(name: str, digits_beton: Path, tmp_path: Path) -> None:
    assert tuple(load_manifest()) == SHIPPED
    folder, release = MANIFEST.parent / "released" / name, find_release(name)
    assert release.urls == (f"package:{name}",)
    assert {file.name: (file.size, file.sha256) for file in release.files} == {
        path.name: (path.stat().st_size, file_sha256(path)) for path in folder.iterdir()
    }
    report = evaluate_weights(name, data=str(digits_beton), out=tmp_path)
    metrics, expected = json.loads((report.parent / "metrics.json").read_text())["metrics"], release.metrics
    assert metrics.keys() == expected.keys()
    for key in ("top1", "top5", "recall_at_1", "num_samples"):
        assert metrics[key] == expected[key], key
    for key in ("nll", "ece", "ece_10"):  # equal in every digit where they were made, not on every processor
        assert metrics[key] == pytest.approx(expected[key], rel=1e-5), key


def test_every_way_to_load_gives_the_same_network() -> None:
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
    name, folder = SHIPPED[0], MANIFEST.parent / "released" / SHIPPED[1]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{name}.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    card = json.loads((folder / "config.json").read_text())["skd"]
    (tmp_path / "weights" / f"{name}.json").write_text(json.dumps(card))
    assert read_weights(name)[1]["name"] == name
    monkeypatch.chdir(tmp_path)
    assert read_weights(name)[1]["name"] == SHIPPED[1]


def test_the_command(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = SHIPPED[2]
    path = cache / "weights" / name / "model.safetensors"

    def run(*arguments: str) -> str:
        main(["weights", *arguments])
        return capsys.readouterr().out

    def cached() -> list[str]:
        return [line.split()[4] for line in run("list").splitlines() if line.split()[0] in SHIPPED]

    assert cached() == ["no"] * 3
    assert run("download", name) == run("path", name) == f"{path}\n"
    assert run("verify", name) == f"{name}: verified, {path}\n"
    assert cached() == ["no", "no", "yes"]
    path.write_bytes(path.read_bytes()[:-1])
    for arguments, message in [
        (("verify", name), f"{path} was damaged"),
        (("verify", name), f"{path} is not in the cache"),
        (("path", "resnet10t_digits.sd"), "unknown weights 'resnet10t_digits.sd'; did you mean"),
        (("verify",), "needs a name"),
        (("list", name), "takes no names"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            main(["weights", *arguments])
        assert message in capsys.readouterr().err
