"""``skd release``: the folder loads in timm, in torchvision, from a Hub, and by its entry in a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from fileserver import serve_files
from hubserver import serve_hub
from safetensors.torch import load_file, save_file

from skd_plugins import Recipe, SkdError, create_model, replace, train
from skd_plugins.cli import main
from skd_plugins.commands.release import make_release
from skd_plugins.weights import load_network
from skd_plugins.weights.download import download
from skd_plugins.weights.manifest import add_entry, all_releases, load_manifest
from skd_plugins.weights.published import published_file

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(
    name="resnet10t_digits.tiny", dataset="digits", model="resnet10t", model_args={"channels": [8, 8, 16, 16]},
    method="sd_dropout", epochs=1, batch_size=50, image_size=32, augment="shift", hflip=0.0, crop_pct=1.0, trackers=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(digits_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    short = replace(
        RECIPE, name="resnet18.tiny", model="torchvision/resnet18", model_args={}, max_steps=1, mean=(0.5, 0.5, 0.5)
    )
    return {recipe.model: train(recipe, data=str(digits_beton), out=out) for recipe in (RECIPE, short)}


def written(manifest: Path, *releases: Path) -> Path:
    entries = [json.loads((release / "manifest_entry.json").read_text()) for release in releases]
    manifest.write_text(json.dumps({"version": 1, "weights": entries}))
    return manifest


def test_timm_loads_a_release_as_it_is(
    runs: dict[str, Path], digits_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        main(["release", str(runs["resnet10t"]), "--tag", "new_tag", "--out", str(tmp_path), "--data",
              str(digits_beton)])  # fmt: skip
    finally:
        os.umask(before)
    folder = tmp_path / "resnet10t_digits.new_tag"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "SHA256SUMS", "config.json", "manifest_entry.json", "model.safetensors",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}, "as the umask says"
    assert folder.stat().st_mode & 0o777 == 0o750
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 4

    own, card = load_network(runs["resnet10t"])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    input = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(input), own(input))
    about = timm.data.resolve_model_data_config(model)
    assert (tuple(about["input_size"]), about["crop_pct"], about["interpolation"]) == ((3, 32, 32), 1.0, "bilinear")
    assert tuple(about["mean"]) == RECIPE.mean
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=4)(input).shape == (2, 4)

    entry = json.loads((folder / "manifest_entry.json").read_text())
    assert entry["metrics"]["num_samples"] == 797
    assert entry["urls"] == [folder.as_uri()]
    text = (folder / "README.md").read_text()
    for expected in ("license: apache-2.0", f"| {entry['metrics']['top1']!r} |", "sd_dropout", "CC BY 4.0",
                     f"skd evaluate {folder.name} --data {digits_beton.name}", card["environment"]["commit"] or "",
                     "Input 3 x 32 x 32, RGB", str(list(RECIPE.mean))):  # fmt: skip
        assert expected in text, expected

    # The entry is ready for a manifest, and what it downloads is the release.
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    release = load_manifest(written(tmp_path / "manifest.json", folder))[folder.name]
    copied, copied_card = load_network(download(release))
    assert copied_card["recipe"] == card["recipe"]
    with torch.no_grad():
        assert torch.equal(copied(input), own(input))

    with pytest.raises(SkdError, match="new_tag exists, and a release does not change: give another --tag"):
        make_release(runs["resnet10t"], tmp_path, tag="new_tag", data=str(digits_beton))


def test_a_laboratorys_own_manifest(
    runs: dict[str, Path], digits_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Two releases into one manifest; by their names they come from a server, checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    for tag in ("one", "two"):
        main(["release", str(runs["resnet10t"]), "--tag", tag, "--data", str(digits_beton), "--manifest", "own.json",
              "--url", f"https://host.example/{tag}"])  # fmt: skip
    with pytest.raises(SkdError, match="there are no weights 'resnet10t_digits.two'"):
        load_network("resnet10t_digits.two")
    monkeypatch.setenv("SKD_WEIGHTS_MANIFEST", "own.json")
    capsys.readouterr()
    main(["weights", "list"])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(" resnet10t_digits.")] == [
        *load_manifest(), "resnet10t_digits.one", "resnet10t_digits.two"
    ]  # fmt: skip
    releases = tmp_path / "releases"
    served = {f"/{path.relative_to(releases)}": path.read_bytes() for path in releases.rglob("*") if path.is_file()}
    with serve_files(served) as server:
        monkeypatch.setenv("SKD_WEIGHTS_MIRROR", server.address)
        own, _ = load_network(runs["resnet10t"])
        model = create_model("resnet10t_digits.two", pretrained=True).eval()
        assert [path for path, _ in server.requests if path.endswith(".safetensors")] == [
            "/resnet10t_digits.two/model.safetensors"
        ]
    input = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(input), own(input))

    before = Path("own.json").read_bytes()
    with pytest.raises(SkdError, match=r"resnet10t_digits\.one is the name of weights of own\.json already"):
        add_entry(Path("own.json"), releases / "resnet10t_digits.one" / "manifest_entry.json")
    assert Path("own.json").read_bytes() == before
    Path("own.json").write_bytes(before[:-9])
    with pytest.raises(SkdError, match=r"own\.json: content: Invalid JSON"):
        add_entry(Path("own.json"), releases / "resnet10t_digits.one" / "manifest_entry.json")
    assert Path("own.json").read_bytes() == before[:-9]
    Path("ours.json").write_text(json.dumps({"version": 1, "weights": [
        json.loads((releases / "resnet10t_digits.one" / "manifest_entry.json").read_text())
        | {"name": "resnet10t_digits.ce"}
    ]}))  # fmt: skip
    monkeypatch.setenv("SKD_WEIGHTS_MANIFEST", "ours.json")
    with pytest.raises(SkdError, match=r"SKD_WEIGHTS_MANIFEST: resnet10t_digits\.ce in ours\.json is the name of"):
        all_releases()


def test_what_a_manifest_cannot_take_is_said_before_the_evaluation(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data do not exist here: an evaluation would say that instead."""
    monkeypatch.chdir(tmp_path)
    [shipped, *_] = load_manifest()
    tag = shipped.removeprefix("resnet10t_digits.")
    Path("damaged.json").write_text('{"version": 1')
    Path("folder").mkdir()
    entry = load_manifest()[shipped].model_dump(mode="json") | {"name": RECIPE.name}
    Path("own.json").write_text(json.dumps({"version": 1, "weights": [entry]}))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for manifest, given_tag, message in [
        ("new.json", tag, f"{shipped} is the name of weights of the package already; give another --tag"),
        ("own.json", None, f"{RECIPE.name} is the name of weights of own.json already; give another --tag"),
        ("damaged.json", None, "damaged.json: content: Invalid JSON"),
        ("folder", None, "folder can't be a manifest: .*Is a directory"),
        ("own.json/new.json", None, "own.json/new.json can't be a manifest: "),
        ("new.json", None, "nowhere does not exist"),
    ]:
        with pytest.raises(SkdError, match=message):
            make_release(runs["resnet10t"], tmp_path / "out", tag=given_tag, data="nowhere", manifest=Path(manifest))
        assert list((tmp_path / "out").iterdir()) == []
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_torchvision_loads_a_release(runs: dict[str, Path], digits_beton: Path, tmp_path: Path) -> None:
    folder = make_release(
        runs["torchvision/resnet18"], tmp_path, data=str(digits_beton), urls=["https://host.example/r"], detectron2=True
    )
    assert folder.name == "resnet18.tiny"
    own, _ = load_network(runs["torchvision/resnet18"])
    plain = torchvision.models.resnet18(num_classes=10).eval()
    plain.load_state_dict(load_file(folder / "model.safetensors"))
    input = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = own(input)
        assert torch.equal(plain(input), expected)
        torch.testing.assert_close(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(input), expected)
    content = pickle.loads((folder / "resnet18.tiny.pkl").read_bytes())
    assert (content["model"]["stem.conv1.weight"] == plain.conv1.weight.detach().numpy()).all()
    settings = (folder / "resnet18.tiny.detectron2.yaml").read_text()
    assert "WEIGHTS: resnet18.tiny.pkl" in settings
    assert str(tmp_path) not in settings
    entry = json.loads((folder / "manifest_entry.json").read_text())
    assert {"resnet18.tiny.pkl", "resnet18.tiny.detectron2.yaml"} < {file["name"] for file in entry["files"]}
    assert entry["urls"] == ["https://host.example/r"]


def test_a_network_that_timm_has_not_says_so(tmp_path: Path) -> None:
    from skd_plugins.commands.model_card import timm_config

    card = {"model": "torchvision/googlenet", "num_classes": 3, "model_args": {"aux_logits": False}, "classes": None,
            "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0,
            "interpolation": "bilinear"}  # fmt: skip
    config = timm_config(create_model("torchvision/googlenet", num_classes=3, aux_logits=False), card)
    assert "architecture" not in config
    assert config["skd"] == card


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("resnet10t", {"channels": [8, 8, 16, 16]}, ["library_name: timm", "import timm\n\n"]),
        ("resnet10", {}, ["library_name: timm", "import skd_plugins.networks  # registers"]),
        ("resnet10t", {"channels": [8, 8, 16, 16], "classifier": "mlp"}, ["timm alone can't make this network"]),
    ],
)
def test_the_lines_of_the_readme_load_a_release(
    model: str, arguments: dict[str, object], words: list[str], digits_beton: Path, tmp_path: Path
) -> None:
    """In a process of their own, of a network of timm, of one of ours, and of one that timm refuses."""
    recipe = replace(RECIPE, name="net.tiny", model=model, model_args=arguments, max_steps=1)
    run = train(recipe, data=str(digits_beton), out=tmp_path / "runs")
    folder = make_release(run, tmp_path, data=str(digits_beton))
    text = (folder / "README.md").read_text()
    assert all(word in text for word in words)
    assert (
        ("- timm\n" in text)
        == ("library_name: timm" in text)
        == ("architecture" in (folder / "config.json").read_text())
    )
    lines = text.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(folder))
    script = tmp_path / "script.py"
    script.write_text(f"import torch\n{lines}\ntorch.save(model.state_dict(), {str(tmp_path / 'loaded.pt')!r})\n")
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded, own = torch.load(tmp_path / "loaded.pt"), load_network(run)[0].state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tag": "../x"}, "is not a name of weights"),
        ({"urls": ["ftp://host.example"]}, "'ftp://host.example' is none of https://"),
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"detectron2": True}, "resnet10t has parts that detectron2's ResNet has not"),
    ],
)
def test_what_cannot_be_released_leaves_nothing(
    arguments: dict[str, object], message: str, runs: dict[str, Path], digits_beton: Path, tmp_path: Path
) -> None:
    with pytest.raises(SkdError, match=message):
        make_release(runs["resnet10t"], tmp_path, **{"data": str(digits_beton)} | arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_from_a_hub(runs: dict[str, Path], digits_beton: Path, beton: Path, tmp_path: Path) -> None:
    """timm's hf-hub:, our hf:// and timm's published weights, from a server on loopback that looks like the Hub."""
    folder = make_release(
        runs["resnet10t"], tmp_path / "releases", data=str(digits_beton), urls=["hf://owner/tiny@main"]
    )
    manifest = written(tmp_path / "manifest.json", folder)
    torch.manual_seed(0)
    published = timm.create_model("test_resnet", num_classes=1000)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    val = tmp_path / "val.beton"  # alone, so that its classes have no names
    shutil.copy(beton, val)
    script = tmp_path / "script.py"
    script.write_text(f"""
import torch, timm
from pathlib import Path
from skd_plugins import SkdError, create_model
from skd_plugins.cli import main
from skd_plugins.weights.download import download
from skd_plugins.weights.manifest import load_manifest
from skd_plugins.weights.published import published_file

input = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
of_timm = timm.create_model("hf-hub:owner/tiny", pretrained=True).eval()
folder = download(load_manifest(Path({str(manifest)!r}))["resnet10t_digits.tiny"])
of_ours = timm.create_model(f"local-dir:{{folder}}", pretrained=True).eval()
assert torch.equal(of_timm(input), of_ours(input))
print("logits", of_ours(input).double().sum().item())

name = "timm/test_resnet.r160_in1k"
created = create_model(name, pretrained=True)
print("classes", created.num_classes, create_model(name, num_classes=7, pretrained=True).num_classes)
path = published_file(name, download=True)
main(["weights", "verify", name])
main(["evaluate", name, "--data", {str(val)!r}])
path.chmod(0o644)
path.write_bytes(path.read_bytes()[:-1] + b"x")
try:
    main(["weights", "verify", name])
except SystemExit as stopped:
    print("damaged", stopped.code, path.exists())
""")
    environment = {
        "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SKD_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    repositories = {
        "owner/tiny": {path.name: path for path in folder.iterdir()},
        "timm/test_resnet.r160_in1k": {"model.safetensors": tmp_path / "model.safetensors"},
    }
    with serve_hub(repositories) as address:
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env=environment | {"HF_ENDPOINT": address},
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    own, _ = load_network(runs["resnet10t"])
    input = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert float(said["logits"]) == pytest.approx(own(input).double().sum().item(), rel=1e-6)
    assert said["classes"] == "1000 7"
    assert said["timm/test_resnet.r160_in1k:"].startswith("verified, ")
    assert said["damaged"] == "2 False"
    assert "was not what its checksum" in done.stderr
    metrics = json.loads((tmp_path / "evaluation/timm/test_resnet.r160_in1k/metrics.json").read_text())["metrics"]
    assert metrics["num_samples"] == 16


def test_torchvisions_files_are_checked_before_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "torchvision/resnet18.IMAGENET1K_V1"
    with pytest.raises(SkdError, match=f"{name} is not in the cache: skd weights download {name}"):
        published_file(name, download=False)
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    for use in (lambda: published_file(name, download=False), lambda: load_network(name)):
        path.write_bytes(pickle.dumps(os.getcwd))
        with pytest.raises(SkdError, match="was not what its checksum f37072fd says and is deleted"):
            use()
        assert not path.exists()


class Evil:
    """What a pickle can do to who loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_torchvisions_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloaded by torch.hub from a server on loopback, whose address replaces torchvision's; loaded as data only."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "torchvision/mobilenet_v3_small.IMAGENET1K_V1"
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small().eval()
    files = {}
    for what in (model.state_dict(), {"weight": Evil(tmp_path / "mark")}):
        buffer = io.BytesIO()
        torch.save(what, buffer)
        files[f"/net-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"] = buffer.getvalue()
    good, evil = files
    input = torch.randn(1, 3, 64, 64)
    with serve_files(files) as server, torch.no_grad():
        monkeypatch.setattr(weights.value, "url", f"{server.address}{good}")
        loaded = create_model(name, pretrained=True).eval()
        assert torch.equal(loaded(input), model(input))
        network, card = load_network(name)
        assert torch.equal(network(input), model(input))
        assert (card["num_classes"], card["input_size"], len(card["classes"])) == (1000, [3, 224, 224], 1000)
        assert create_model(name, num_classes=3, pretrained=True)(torch.randn(2, 3, 64, 64)).shape == (2, 3)
        assert published_file(name, download=False) == tmp_path / "hub" / "checkpoints" / good[1:]
        assert [path for path, _ in server.requests] == [good]

        monkeypatch.setattr(weights.value, "url", f"{server.address}{evil}")
        with pytest.raises(SkdError, match="is not a readable checkpoint"):
            load_network(name)
    assert not (tmp_path / "mark").exists()
