"""Set-up: the lock file, the repository, the wheel in an environment of its own, and detectron2's installer."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import skd_plugins
from skd_plugins.cli import main
from skd_plugins.common.errors import SkdError
from skd_plugins.data.beton.native.compile import library_path
from skd_plugins.training.project import init, project

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def shell(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@cache
def tracked() -> list[Path]:
    """Files that git knows or would add; in a copy without git, all that no tool made."""
    listed = shell("git", "ls-files", "-co", "--exclude-standard", "-z")
    names = listed.stdout.split("\0")
    if listed.returncode:
        made = re.compile(r"(^|/)(\.venv|\.setup|\.git|\.[a-z]+_cache|\.hypothesis|__pycache__|build|dist)/|^runs/")
        names = [
            str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not made.search(f"{path.relative_to(ROOT)}/")
        ]
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in paths
    return paths


# ---------------------------------------------------------------------------------------------------------- the lock


def linux(python: str) -> dict[str, str]:
    """What markers see on Linux."""
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.9"}


def locked(python: str) -> dict[str, str]:
    """The versions that the lock gives."""
    versions: dict[str, str] = {}
    for line in LOCK.splitlines():
        if line.strip() and not line.lstrip().startswith(("#", "--hash=")):
            pin = Requirement(line.rstrip("\\ "))
            if pin.marker is None or pin.marker.evaluate(linux(python)):
                name = canonicalize_name(pin.name)
                assert name not in versions, f"{name} is locked twice for Python {python}"
                versions[name] = str(pin.specifier).removeprefix("==")
    return versions


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_every_dependency_in_a_version_that_fits(python: str) -> None:
    versions = locked(python)
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    assert len(wanted) > 20
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate(linux(python)):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked; run: make lock"
        assert version in requirement.specifier, f"{requirement} is locked as {version}; run: make lock"


def test_every_version_is_locked_with_its_hashes_and_no_address() -> None:
    """A file that somebody exchanged on an index is refused."""
    parts = re.split(r"\n(?=[a-z0-9])", LOCK)[1:]
    assert len(parts) > 100
    for part in parts:
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", part, re.MULTILINE), part.splitlines()[0]
    assert not re.search(r"://|^-|\bfile:|[.]whl|(^|\s)[/~.]|@", LOCK, re.MULTILINE)


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == skd_plugins.__version__
    assert citation.count("type: conference-paper") == citation.count("type: article") == 1


# ------------------------------------------------------------------------------------------------------ the repository


def test_repository_has_no_large_file_and_names_no_machine_path_and_no_index() -> None:
    forbidden = re.compile(
        r"""(^|["' (=:])/(root|home|w[o]rk|f[a]rm)/"""
        r"""|index[-_]url|pypi[.]org|pythonh[o]sted|://[^ ]*[.]whl|://[^ ]*/simple\b""",
        re.MULTILINE | re.IGNORECASE,
    )
    assert not [path for path in tracked() if path.stat().st_size > 2_000_000]
    texts = {path: path.read_text(errors="ignore") for path in tracked() if b"\0" not in path.read_bytes()}
    assert not [(path.name, match.group()) for path, text in texts.items() if (match := forbidden.search(text))]


# --------------------------------------------------------------------------------------------- the wheel, skd init


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


# ---------------------------------------------------------------------------------------------- detectron2's installer


@pytest.fixture
def installer():
    spec = importlib.util.spec_from_file_location("install_detectron2", ROOT / "scripts/install_detectron2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP_PY = """setup(
    install_requires=[
        "Pillow>=7.1",
        "future",  # used by caffe2
        "pydot",  # used to save caffe2 SVGs
        "black==21.4b2",
    ],
    ext_modules=get_extensions(),
    cmdclass={},
)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the PyPI copy's source looks like where it is changed."""
    folder = tmp_path / "pb1-detectron2-0.6"
    (folder / "detectron2/data/transforms").mkdir(parents=True)
    (folder / "setup.py").write_text(SETUP_PY)
    (folder / "detectron2/data/transforms/transform.py").write_text("a = Image.LINEAR, Image.BILINEAR, INTER_LINEAR\n")
    return folder


def test_patch(installer, source: Path) -> None:
    installer.patch(source)
    assert (source / "setup.py").read_text() == (
        'setup(\n    install_requires=[\n        "Pillow>=7.1",\n    ],\n    cmdclass={},\n)\n'
    )
    text = (source / "detectron2/data/transforms/transform.py").read_text()
    assert text == "a = Image.BILINEAR, Image.BILINEAR, INTER_LINEAR\n"

    stub: dict[str, object] = {}
    exec((source / "detectron2/_C.py").read_text(), stub)
    assert stub["get_compiler_version"]() == "none (copy from PyPI)"
    with pytest.raises(RuntimeError, match=r"'nms_rotated' is compiled.*use_fast_impl=False.*install_detectron2\.py"):
        stub["__getattr__"]("nms_rotated")

    (source / "setup.py").write_text(SETUP_PY.replace("ext_modules", "extensions"))
    with pytest.raises(installer.InstallError, match=r"setup\.py of the PyPI copy has .*ext_modules.* 0 times"):
        installer.patch(source)
