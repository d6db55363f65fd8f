"""``skd init``, and a wheel in an environment of its own: a training, an evaluation, weights, without a checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from skd_plugins.cli import main
from skd_plugins.common.errors import SkdError
from skd_plugins.training.project import init, project

ROOT = Path(__file__).parents[1]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("recipes", "detection") for path in (folder / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def test_init_copies_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "mine")])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "mine" / part) for part in ("recipes", "detection")]
    copied = files(tmp_path / "mine")
    assert copied == files(ROOT)
    assert "recipes/imagenet_r152_sddropout.py" in copied
    assert project() == ROOT


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "detection").mkdir()
    with pytest.raises(SkdError, match="detection exists already"):
        init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["detection"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel; what it depends on is seen through a .pth file."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)  # the sdist, and the wheel from it
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = Path(subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip())  # fmt: skip
    unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])"
    subprocess.run([python, "-c", unpack, wheel, site], check=True)
    # `addsitedir` would read the editable install's own .pth, which comes after and finds the checkout; a plain path
    # does not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


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
