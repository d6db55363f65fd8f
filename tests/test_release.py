"""``skd release``: the folder loads in timm, in torchvision, from a Hub, and by its entry in a manifest."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from conftest import TINY_RECIPE, umask
from fileserver import serve_files, serve_hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from skd_plugins import SkdError, create_model, replace, train
from skd_plugins.cli import main
from skd_plugins.commands.release import release
from skd_plugins.weights import load_network
from skd_plugins.weights.manifest import add_entry, all_releases, load_manifest
from skd_plugins.weights.upstream import published_file

ROOT = Path(__file__).parents[1]
RECIPE = replace(TINY_RECIPE, name="resnet10t_digits.tiny", method="sd_dropout", epochs=1, batch_size=50, image_size=32)
INPUT = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(digits_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(RECIPE, data=str(digits_beton), out=tmp_path_factory.mktemp("runs"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(INPUT)


def test_timm_loads_a_release_as_it_is(run: Path, digits_beton: Path, tmp_path: Path) -> None:
    with umask(0o027):
        main(["release", str(run), "--tag", "new_tag", "--out", str(tmp_path), "--data", str(digits_beton)])
    folder = tmp_path / "resnet10t_digits.new_tag"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    files = {"README.md", "SHA256SUMS", "config.json", "manifest_entry.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == files
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}, "as the umask says"
    assert folder.stat().st_mode & 0o777 == 0o750
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)

    own, card = load_network(run)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits(model), logits(own))
    about = timm.data.resolve_model_data_config(model)
    assert (tuple(about["input_size"]), about["crop_pct"], about["interpolation"]) == ((3, 32, 32), 1.0, "bilinear")
    assert tuple(about["mean"]) == RECIPE.mean
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=4)(INPUT).shape == (2, 4)

    entry = json.loads((folder / "manifest_entry.json").read_text())
    assert entry["metrics"]["num_samples"] == 797
    assert entry["urls"] == [folder.as_uri()]
    text = (folder / "README.md").read_text()
    for expected in ("license: apache-2.0", f"| Top-1 | {100 * entry['metrics']['top1']:.2f} % |",
                     f"| NLL | {entry['metrics']['nll']:.4f} |", "Trained on scikit-learn's digits",
                     card["environment"]["command"],
                     f"skd evaluate {folder.name} --data {digits_beton.name}", str(list(RECIPE.mean))):  # fmt: skip
        assert expected in text, expected


def test_a_laboratorys_own_manifest(
    run: Path, digits_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two releases into one manifest; by their names they come from a server, checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    served: dict[str, bytes] = {}
    with serve_files(served) as server:
        for tag in ("one", "two"):
            main(["release", str(run), "--tag", tag, "--data", str(digits_beton), "--manifest", "own.json",
                  "--url", f"{server.address}/resnet10t_digits.{tag}"])  # fmt: skip
        with pytest.raises(SkdError, match="there are no weights 'resnet10t_digits.two'"):
            load_network("resnet10t_digits.two")
        monkeypatch.setenv("SKD_WEIGHTS_MANIFEST", "own.json")
        assert list(all_releases()) == [*load_manifest(), "resnet10t_digits.one", "resnet10t_digits.two"]
        releases = tmp_path / "releases"
        served |= {f"/{file.relative_to(releases)}": file.read_bytes() for file in releases.glob("*/*")}
        model = create_model("resnet10t_digits.two", pretrained=True)
        assert torch.equal(logits(model), logits(load_network(run)[0]))
        assert "/resnet10t_digits.two/model.safetensors" in server.requests
        assert all("digits.two/" in path for path in server.requests)

    before = Path("own.json").read_bytes()
    first, *_ = load_manifest(Path("own.json")).values()
    with pytest.raises(SkdError, match=r"own\.json already has weights called resnet10t_digits\.one"):
        add_entry(Path("own.json"), first)
    assert Path("own.json").read_bytes() == before
    Path("ours.json").write_text(before.decode().replace("resnet10t_digits.one", "resnet10t_digits.ce"))
    monkeypatch.setenv("SKD_WEIGHTS_MANIFEST", "ours.json")
    with pytest.raises(SkdError, match=r"MANIFEST: ours\.json has resnet10t_digits\.ce, a name of the package"):
        all_releases()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tag": "old"}, "resnet10t_digits.old exists, and a release does not change: give another --tag"),
        ({"push": "owner/net"}, "can't push to owner/net: .*; log in with: hf auth login"),
        ({"detectron2": True}, "resnet10t has layers that detectron2's ResNet lacks"),
        ({"tag": "ce", "manifest": Path("new.json")}, "the package already has weights called resnet10t_digits.ce"),
        ({}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_released_says_so_before_the_evaluation_and_leaves_nothing(
    arguments: dict[str, Any], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data do not exist here: an evaluation would say that instead."""
    monkeypatch.chdir(tmp_path)
    Path("out/resnet10t_digits.old").mkdir(parents=True)
    with pytest.raises(SkdError, match=message):
        release(str(run), out=Path("out"), data="nowhere", **arguments)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "out", tmp_path / "out" / "resnet10t_digits.old"]


def test_torchvision_loads_a_release(digits_beton: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, name="resnet18.tiny", model="torchvision/resnet18", model_args={}, max_steps=1)
    run = train(recipe, data=str(digits_beton), out=tmp_path / "runs")
    folder = release(str(run), out=tmp_path, data=str(digits_beton), url=("https://host.example/r",), detectron2=True)
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(load_file(folder / "model.safetensors"))
    expected = logits(load_network(run)[0])
    assert torch.equal(logits(plain), expected)
    torch.testing.assert_close(logits(timm.create_model(f"local-dir:{folder}", pretrained=True)), expected)
    content = pickle.loads((folder / "resnet18.tiny.pkl").read_bytes())
    assert (content["model"]["stem.conv1.weight"] == plain.conv1.weight.detach().numpy()).all()
    settings = (folder / "resnet18.tiny.detectron2.yaml").read_text()
    assert "WEIGHTS: resnet18.tiny.pkl" in settings
    assert str(tmp_path) not in settings
    entry = json.loads((folder / "manifest_entry.json").read_text())
    assert {"resnet18.tiny.pkl", "resnet18.tiny.detectron2.yaml"} < {file["name"] for file in entry["files"]}
    assert entry["urls"] == ["https://host.example/r"]


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("resnet10", {}, ["library_name: timm", "- timm\n", "import skd_plugins.networks  # registers"]),
        ("resnet10t", {"channels": [8, 8, 16, 16], "classifier": "mlp"}, ["timm alone can't make this network"]),
    ],
)
def test_the_lines_of_the_readme_load_a_release(
    model: str, arguments: dict[str, object], words: list[str], digits_beton: Path, tmp_path: Path
) -> None:
    """Of one of our networks, and of one that timm lacks."""
    recipe = replace(RECIPE, name="net.tiny", dataset="mine", model=model, model_args=arguments, max_steps=1)
    run = train(recipe, data=str(digits_beton), out=tmp_path / "runs")
    folder = release(str(run), out=tmp_path, data=str(digits_beton))
    text = (folder / "README.md").read_text()
    trained = "Trained on the author's own data, called mine, with 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."
    assert all(word in text for word in [*words, trained])
    assert ("- timm\n" in text) == ("architecture" in (folder / "config.json").read_text())
    lines = text.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(folder))
    names: dict[str, Any] = {}
    exec(lines, names)
    loaded, own = names["model"].state_dict(), load_network(run)[0].state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())


def test_pushed_to_a_hub_and_loaded_from_it(run: Path, digits_beton: Path, beton: Path, tmp_path: Path) -> None:
    """--push, timm's hf-hub:, our hf:// and timm's published weights, on a server that looks like the Hub."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "model.safetensors")
    val = tmp_path / "val.beton"  # alone, so that its classes have no names
    shutil.copy(beton, val)
    script = f"""
import torch, timm
from pathlib import Path
from skd_plugins import create_model
from skd_plugins.cli import main
from skd_plugins.weights.upstream import published_file

main(["release", {str(run)!r}, "--data", {str(digits_beton)!r}, "--manifest", "own.json", "--push", "owner/tiny"])
input = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
of_timm = timm.create_model("hf-hub:owner/tiny", pretrained=True).eval()
of_ours = create_model("resnet10t_digits.tiny", pretrained=True).eval()
assert torch.equal(of_timm(input), of_ours(input))
print("logits", of_ours(input).double().sum().item())

name = "timm/test_resnet.r160_in1k"
created = create_model(name, pretrained=True)
assert (created.num_classes, create_model(name, num_classes=7, pretrained=True).num_classes) == (1000, 7)
path = published_file(name, download=True)
main(["weights", "verify", name])
main(["evaluate", name, "--data", {str(val)!r}])
path.chmod(0o644)
path.write_bytes(path.read_bytes()[:-1] + b"x")
try:
    main(["weights", "verify", name])
except SystemExit as stopped:
    print("damaged", stopped.code, path.exists())
"""
    environment = {
        "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SKD_CACHE": str(tmp_path / "cache"), "HF_TOKEN": "hf_secret",
        "SKD_WEIGHTS_MANIFEST": str(tmp_path / "own.json"),
    }  # fmt: skip
    repositories: dict[str, dict[str, Path | bytes]] = {
        "timm/test_resnet.r160_in1k": {"model.safetensors": tmp_path / "model.safetensors"}
    }
    with serve_hub(repositories) as address:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment | {"HF_ENDPOINT": address},
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "releases" / "resnet10t_digits.tiny"
    assert repositories["owner/tiny"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert json.loads((folder / "manifest_entry.json").read_text())["urls"] == ["hf://owner/tiny"]
    expected = logits(load_network(run)[0]).double().sum().item()
    assert float(done.stdout.partition("logits ")[2].split()[0]) == pytest.approx(expected, rel=1e-6)
    assert "timm/test_resnet.r160_in1k: verified, " in done.stdout
    assert done.stdout.endswith("damaged 2 False\n")
    assert "was damaged (its SHA-256 does not begin" in done.stderr
    metrics = json.loads((tmp_path / "evaluation/timm/test_resnet.r160_in1k/metrics.json").read_text())["metrics"]
    assert metrics["num_samples"] == 16


def test_torchvisions_weights_are_checked_before_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloaded by torch.hub; an address of ours replaces torchvision's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "torchvision/mobilenet_v3_small.IMAGENET1K_V1"
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    file = f"net-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    with serve_files({f"/{file}": buffer.getvalue()}) as server:
        weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
        monkeypatch.setattr(weights.value, "url", f"{server.address}/{file}")
        with pytest.raises(SkdError, match=f"{name} is not in the cache; run: skd weights download {name}"):
            published_file(name, download=False)
        assert torch.equal(logits(create_model(name, pretrained=True)), logits(model))
        network, card = load_network(name)
        assert torch.equal(logits(network), logits(model))
        assert (card["num_classes"], card["input_size"], len(card["classes"])) == (1000, [3, 224, 224], 1000)
        assert create_model(name, num_classes=3, pretrained=True)(INPUT).shape == (2, 3)
        path = published_file(name, download=False)
        assert path == tmp_path / "hub" / "checkpoints" / file
        assert server.requests == [f"/{file}"]
    for use in (lambda: published_file(name, download=False), lambda: load_network(name)):
        path.write_bytes(pickle.dumps(os.getcwd))
        with pytest.raises(SkdError, match="was damaged .* and is deleted"):
            use()
        assert not path.exists()
