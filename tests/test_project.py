"""``skd init``, and a wheel in an environment of its own: a training, an evaluation, weights, without a checkout."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from test_setup import ROOT, shell, tracked

from skd_plugins.cli import main
from skd_plugins.common.errors import SkdError
from skd_plugins.data.beton.native.build import library_path
from skd_plugins.training.project import init, project


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("recipes", "detection") for path in (folder / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def test_init_copies_everything_and_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "mine")])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "mine" / part) for part in ("recipes", "detection")]
    copied = files(tmp_path / "mine")
    assert copied == files(ROOT)
    assert "recipes/imagenet_r152_sddropout.py" in copied
    assert project() == ROOT
    (tmp_path / "other" / "detection").mkdir(parents=True)
    with pytest.raises(SkdError, match="detection exists already"):
        init(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["detection"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sdist, so that both are complete."""
    folder = tmp_path_factory.mktemp("dist")
    built = shell(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("skd_plugins/")}
    compiled = {name for name in package if re.fullmatch(r"skd_plugins/data/beton/native/crop-[0-9a-f]{12}\.so", name)}
    expected = {str(path.relative_to(ROOT)) for path in tracked() if (ROOT / "skd_plugins") in path.parents}
    for part in ("recipes", "detection"):  # for skd init
        own = [path.relative_to(ROOT) for path in tracked() if ROOT / part in path.parents]
        expected |= {f"skd_plugins/_project/{path}" for path in own}
    assert package - compiled == expected
    # our decoder, where there are a compiler and libjpeg-turbo, and then the wheel is for this platform only
    assert len(compiled) == library_path().exists()
    assert ("none-any" in wheel.name) == (not compiled)
    assert "skd_plugins/py.typed" in package


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment that has the wheel; what it depends on is seen through a .pth file."""
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # `addsitedir` would read the editable install's own .pth, which comes after and finds the checkout; a plain path
    # does not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "env" / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def skd(*commands: str) -> tuple[str, str]:
    """Runs commands in one process, since importing torch takes most of their time."""
    return "-c", f"from skd_plugins import cli; print(cli.__file__); [cli.main(c.split()) for c in {commands}]"


def test_an_installed_wheel_does_it_all(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, tmp_path, *skd("init d", "write digits --out data --per-class 2 --folder"))
    assert Path(printed.splitlines()[0]).is_relative_to(installed.parents[1])
    assert files(tmp_path / "d") == files(ROOT)
    small = ("epochs=1", "trackers=[]", 'model_args={"channels": [8, 8, 16, 16]}')
    printed = run(installed, tmp_path, "d/recipes/digits_ce.py", "--data", "data", *small)
    made = "runs/resnet10t_digits.ce/seed0"
    assert f"done: {made}" in printed
    commands = (f"evaluate {made} --data data", "weights list", "reproduce --list --scale mini")
    printed = run(installed, tmp_path, *skd(*commands))
    metrics = json.loads((tmp_path / made / "evaluation" / "metrics.json").read_text())["metrics"]
    assert f"\nTop-1 {100 * metrics['top1']:.2f} %, Top-5 " in printed
    assert "(797 images)\nreport: runs/" in printed
    assert "resnet10t_digits.sdd" in printed
    assert "34 artefacts at scale mini" in printed
    assert "--config" in run(installed, tmp_path, "d/detection/train_net.py", "--help")
