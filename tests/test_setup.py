"""Set-up: the lock file, the Makefile, the scripts (run with stand-ins for apt and uv) and detectron2's installer."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import skd_plugins
from skd_plugins.data.beton.native.build import library_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def shell(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


def tracked() -> list[Path]:
    """Files that are, or would be, in the repository; without git all but what a build makes."""
    listed = shell("git", "ls-files", "-co", "--exclude-standard", "-z")
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        ignored = re.compile(r"(^|/)(\.venv|\.setup|\.git|\.[a-z]+_cache|\.hypothesis|__pycache__|build|dist|runs)/")
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [name for name in names if not ignored.search(f"{name}/")]
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in paths
    return paths


# ---------------------------------------------------------------------------------------------------------- the lock


def linux(python: str) -> dict[str, str]:
    """What markers see on 64-bit Linux."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
    }


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


def test_every_version_is_locked_with_its_hashes() -> None:
    """A file that somebody exchanged on an index is refused."""
    parts = re.split(r"\n(?=[a-z0-9])", LOCK)[1:]
    assert len(parts) > 100
    for part in parts:
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", part, re.MULTILINE), part.splitlines()[0]


def test_lock_has_no_address_and_no_path() -> None:
    assert not re.search(r"://|^-|\bfile:|[.]whl|(^|\s)[/~.]|@", LOCK, re.MULTILINE)


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == skd_plugins.__version__
    assert citation.count("type: conference-paper") == citation.count("type: article") == 1


# ------------------------------------------------------------------------------------------------------ the repository


def test_repository_has_no_large_file() -> None:
    assert not [path for path in tracked() if path.stat().st_size > 2_000_000]


def test_repository_names_no_machine_path_and_no_index() -> None:
    forbidden = re.compile(
        r"""(^|["' (=:])/(root|home|w[o]rk|f[a]rm)/"""
        r"""|index[-_]url|pypi[.]org|pythonh[o]sted|://[^ ]*[.]whl|://[^ ]*/simple\b""",
        re.MULTILINE | re.IGNORECASE,
    )
    found = []
    for path in tracked():
        try:
            match = forbidden.search(path.read_text())
        except UnicodeDecodeError:
            continue
        if match:
            found.append((path.name, match.group()))
    assert not found


def test_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    built = shell(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
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


def test_pre_commit_configuration_is_valid() -> None:
    checked = shell(sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("target", ["demo", "test", "slow", "lint"])
def test_make_sets_up_first(target: str) -> None:
    planned = shell("make", "-n", "-C", str(ROOT), target, cwd=ROOT.parent, MAKEFLAGS="")
    assert planned.returncode == 0, planned.stderr
    commands = [line for line in planned.stdout.splitlines() if not line.startswith("make")]
    assert commands[0].startswith("scripts/setup.sh")
    assert ".venv/bin/" in commands[1]


@pytest.mark.parametrize("script", ["scripts/setup.sh", "scripts/uv.sh", "scripts/pythons.sh", ".ci/run"])
def test_shell_scripts_parse(script: str) -> None:
    parsed = shell("bash", "-n", ROOT / script)
    assert parsed.returncode == 0, parsed.stderr
    assert os.access(ROOT / script, os.X_OK)


# ----------------------------------------------------------------------------------- setup.sh, with stand-ins for tools

TOOLS = {
    "id": "echo ${FAKE_UID:-0}",
    "sudo": """
        if [[ $1 == -n ]]; then [[ ! -e sudo-asks ]]; exit; fi
        log sudo "$@"
        "$@"
        """,
    "apt-get": 'log apt-get "$@"; [[ " $* " != *" install "* ]] || for one; do echo "$one"; done >>installed',
    "dpkg-query": 'grep -qx -- "${!#}" installed && echo installed',
    "pkg-config": 'grep -qx "lib.*-dev" installed',
    "git": "",
    "chromium": "",
    "uv": """
        log uv "$@"
        if [[ $1 == venv ]]; then
          mkdir -p "${!#}/bin" && cp tools/python "${!#}/bin/python"
        fi""",
    "python": """
        case "$*" in
          -V) echo Python 3.12.1;;
          *sysconfig*) echo headers;;
          *-dev*) echo python3.12-dev;;
          *build.py) log decoder; [[ ! -e no-compiler ]];;
          *install_detectron2*) log detectron2; [[ ! -e no-detectron2 ]];;
        esac""",
}
NEEDED = ["g++", "git", "libjpeg-dev", "libopencv-dev", "libturbojpeg0-dev", "pkg-config"]


class Machine:
    """A copy of what set-up reads, and a PATH with nothing but stand-ins that log what they are called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ["pyproject.toml", "requirements.lock", "scripts", "skd_plugins/data/native"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        (folder / "headers").mkdir()
        (folder / "headers/Python.h").touch()
        (folder / "installed").write_text("\n".join([*NEEDED, ""]))
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in ["bash", "cat", "cksum", "cp", "dirname", "env", "grep", "mkdir", "rm"]:
            (self.tools / name).symlink_to(shutil.which(name) or name)
        for name, body in TOOLS.items():
            self.tool(name, body)
        self.tool("python3", (self.tools / "python").read_text())

    def tool(self, name: str, body: str) -> None:
        bash = shutil.which("bash")
        path = self.tools / name
        path.write_text(body if body.startswith("#!") else f'#!{bash}\nlog() {{ echo "$*" >>log; }}\n{body}\n')
        path.chmod(0o755)

    def run(self, script: str = "scripts/setup.sh", *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """Exit status, output, and what the tools were called with."""
        log = self.folder / "log"
        log.write_text("")
        done = subprocess.run(
            [self.folder / script, *arguments],
            cwd=self.folder,
            env={"PATH": str(self.tools), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_setup_runs_once(machine: Machine) -> None:
    status, output, calls = machine.run()
    assert status == 0, output
    assert [call for call in calls if call != "uv --version"] == [
        "uv venv --quiet --python >=3.10,<3.14 .venv",
        "uv pip install --quiet --python .venv/bin/python --no-deps -r requirements.lock -e .",
        "decoder",
        "detectron2",
    ]
    assert machine.run() == (0, "", [])

    with (machine.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    status, output, calls = machine.run()
    assert status == 0, output
    assert any(call.startswith("uv pip install") for call in calls)
    assert not any(call.startswith("uv venv") for call in calls)
    assert machine.run() == (0, "", [])


def test_setup_for_tests_covers_the_other(machine: Machine) -> None:
    assert machine.run("scripts/setup.sh", "--tests")[0] == 0
    assert machine.run() == (0, "", [])
    assert machine.run("scripts/setup.sh", "--tests") == (0, "", [])


def test_setup_installs_only_missing_system_packages(machine: Machine) -> None:
    (machine.folder / "installed").write_text("g++\ngit\nlibjpeg-dev\nlibturbojpeg0-dev\n")
    status, output, calls = machine.run()
    assert status == 0, output
    (install,) = [call for call in calls if call.startswith("apt-get") and " install " in call]
    assert install.endswith("--no-install-recommends libopencv-dev pkg-config")
    assert not [call for call in calls if call.startswith("sudo")]


def test_setup_uses_sudo_when_not_root(machine: Machine) -> None:
    (machine.folder / "installed").write_text("")
    status, output, calls = machine.run(FAKE_UID="1000")
    assert status == 0, output
    sudo = [call for call in calls if call.startswith("sudo")]
    assert len(sudo) == 2
    assert all("apt-get" in call for call in sudo)


@pytest.mark.parametrize("sudo", ["absent", "asks"])
def test_setup_prints_the_command_without_root_and_sudo(machine: Machine, sudo: str) -> None:
    (machine.folder / "installed").write_text("git\n")
    if sudo == "absent":
        (machine.tools / "sudo").unlink()
    else:
        (machine.folder / "sudo-asks").touch()  # for a password, and nobody is there
    status, output, calls = machine.run(FAKE_UID="1000")
    assert status == 1
    assert (
        "apt-get update && apt-get install -y --no-install-recommends g++ libjpeg-dev libopencv-dev libturbojpeg0-dev "
        "pkg-config" in output
    )
    assert not [call for call in calls if call.startswith(("apt-get", "uv pip", "uv venv"))]


@pytest.mark.parametrize("uid", ["0", "1000"])
def test_setup_goes_on_without_a_browser(machine: Machine, uid: str) -> None:
    (machine.tools / "chromium").unlink()
    (machine.tools / "sudo").unlink()
    status, output, calls = machine.run("scripts/setup.sh", "--tests", FAKE_UID=uid)
    assert status == 0, output
    assert calls[-1] == "detectron2"
    debian = "ID=debian" in Path("/etc/os-release").read_text().splitlines()
    if uid == "0" and debian:
        assert any(call.startswith("apt-get") and call.endswith(" chromium") for call in calls)
    else:
        assert "the tests that look at pages will be skipped" in output


def test_setup_gets_missing_headers(machine: Machine) -> None:
    (machine.folder / "headers/Python.h").unlink()
    status, output, calls = machine.run()
    assert status == 0, output
    assert any(call.startswith("apt-get") and call.endswith(" python3.12-dev") for call in calls)


def test_setup_without_apt_goes_on_if_the_libraries_are_there(machine: Machine) -> None:
    for tool in ["apt-get", "dpkg-query"]:
        (machine.tools / tool).unlink()
    status, output, _ = machine.run()
    assert status == 0, output
    assert "no apt here" in output

    (machine.folder / "pyproject.toml").write_text("")
    (machine.folder / "installed").write_text("")
    status, output, _ = machine.run()
    assert status == 1
    assert "pkg-config does not find opencv4" in output


def test_setup_without_detectron2_is_enough_for_the_demo_and_tries_again(machine: Machine) -> None:
    (machine.folder / "no-detectron2").touch()
    assert machine.run("scripts/setup.sh", "--tests")[0] == 1
    status, output, calls = machine.run()
    assert status == 0
    assert "without detectron2" in output
    (machine.folder / "no-detectron2").unlink()
    status, output, calls = machine.run()
    assert (status, calls[-1]) == (0, "detectron2")
    assert machine.run() == (0, "", [])


def test_setup_without_the_decoder_goes_on(machine: Machine) -> None:
    (machine.folder / "no-compiler").touch()
    status, output, calls = machine.run()
    assert (status, calls[-2:]) == (0, ["decoder", "detectron2"])
    assert "going on without our decoder" in output
    (machine.folder / "no-compiler").unlink()
    with (machine.folder / "skd_plugins/data/beton/native/crop.c").open("a") as file:
        file.write("/* changed */\n")
    status, output, calls = machine.run()
    assert (status, calls[-2:]) == (0, ["decoder", "detectron2"])
    assert "without our decoder" not in output


def test_setup_leaves_a_broken_environment_alone(machine: Machine) -> None:
    (machine.folder / ".venv").mkdir()
    status, output, _ = machine.run()
    assert status == 1
    assert "remove it" in output


def test_uv_is_installed_privately_when_path_has_none(machine: Machine) -> None:
    machine.tool("uv", "echo 'shim: command not found' >&2; exit 127")
    machine.tool(
        "python3",
        """
        log python3 "$@"
        case "$*" in *install*)
          while [[ $1 != --target ]]; do shift; done
          mkdir -p "$2/bin"
          printf '#!%s\\necho private "$@"\\n' "$BASH" >"$2/bin/uv" && chmod +x "$2/bin/uv";;
        esac""",
    )
    (machine.tools / "chmod").symlink_to(shutil.which("chmod") or "chmod")
    status, output, calls = machine.run("scripts/uv.sh", "pip", "list")
    assert (status, output) == (0, "private pip list\n")
    assert calls[-1] == f"python3 -m pip install --quiet --upgrade --target {machine.folder}/.setup/uv uv"
    assert machine.run("scripts/uv.sh", "pip", "list") == (0, "private pip list\n", [])


# ---------------------------------------------------------------------------------------------------------- pythons.sh

IN_ENVIRONMENT = """
    log "$(basename "$0")" "$@"
    case "$*" in
      *torch*) echo "torch 1.2, timm 3.4,";;
      "evaluate "*) [[ ! -e broken ]];;
      *http.server*)
        echo "Serving HTTP on 127.0.0.1 port 12345 (http://127.0.0.1:12345/) ..."
        echo '"GET /resnet10t_digits.trial/model.safetensors HTTP/1.1" 200';;
    esac"""


@pytest.fixture
def interpreters(machine: Machine) -> Machine:
    """3.10 and 3.12 are there, and can be installed to: FFCV only to 3.12."""
    for name in ["basename", "chmod", "mktemp", "paste", "sleep", "tail", "touch"]:
        (machine.tools / name).symlink_to(shutil.which(name) or name)
    machine.tool("template", f"cd {machine.folder}\n{IN_ENVIRONMENT}")
    machine.tool("python3", f'[[ $1 == -V ]] && echo "Python $(<{machine.folder}/version)"')
    machine.tool(
        "uv",
        f"""
        here={machine.folder}
        case "$1 $2" in
          build*) mkdir -p "${{!#}}" && touch "${{!#}}/the.whl";;
          "python find") [[ $3 == 3.1[02] ]] && echo "$3" >$here/version && echo $here/tools/python3;;
          venv*) mkdir -p "${{!#}}/bin"
            for name in python skd; do cp $here/tools/template "${{!#}}/bin/$name"; done;;
          "pip install")
            cd $here; log install "${{!#}}"; [[ $(<version) == 3.12 || ${{!#}} != *ffcv* ]];;
        esac""",
    )
    return machine


def test_every_python_that_is_there_is_used(interpreters: Machine) -> None:
    status, output, calls = interpreters.run("scripts/pythons.sh")
    assert status == 0, output
    assert [re.sub(r", \d+ s$", "", line) for line in output.splitlines()] == [
        "Python 3.10: works, torch 1.2, timm 3.4, without FFCV",
        "Python 3.11: skipped, not found",
        "Python 3.12: works, torch 1.2, timm 3.4, with FFCV",
        "Python 3.13: skipped, not found",
    ]
    written = [call for call in calls if call.startswith("skd write")]
    assert written == [f"skd write digits --out data --per-class 5{end}" for end in (" --folder", "")]


def test_a_python_with_which_a_step_fails_is_said_and_the_next_is_tried(interpreters: Machine) -> None:
    (interpreters.folder / "broken").touch()
    status, output, calls = interpreters.run("scripts/pythons.sh", "3.12", "3.10")
    assert status == 1
    assert re.findall(r"^Python (\S+): FAILED after", output, re.MULTILINE) == ["3.12", "3.10"]
    assert not [call for call in calls if "torch" in call], "nothing after the failed step"


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
    with pytest.raises(AttributeError):
        stub["__getattr__"]("__path__")


def test_patch_refuses_another_version(installer, source: Path) -> None:
    (source / "setup.py").write_text(SETUP_PY.replace("ext_modules", "extensions"))
    with pytest.raises(installer.InstallError, match=r"setup\.py of the PyPI copy has .*ext_modules.* 0 times"):
        installer.patch(source)


def test_unpack(installer, source: Path, tmp_path: Path) -> None:
    with pytest.raises(installer.InstallError, match="found 0"):
        installer.unpack(tmp_path)
    with tarfile.open(tmp_path / "pb1-detectron2-0.6.tar.gz", "w:gz") as archive:
        archive.add(source, arcname=source.name)
    assert (installer.unpack(tmp_path) / "setup.py").read_text() == SETUP_PY


def test_the_copy_is_used_where_the_repository_is_out_of_reach(installer, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []

    def run(command: list[str], **options: object) -> None:
        if command[:2] == ["git", "ls-remote"]:
            raise installer.InstallError("git ls-remote: no network")

    monkeypatch.setattr(installer, "run", run)
    monkeypatch.setattr(installer, "unpack", lambda folder: Path("unpacked"))
    monkeypatch.setattr(installer, "patch", lambda source: None)
    monkeypatch.setattr(installer, "replace_installed", lambda python, what: replaced.append(what))
    assert installer.install("python", None, "address") == (
        "pb1-detectron2==0.6 from PyPI, without compiled operators (official: git ls-remote: no network)"
    )
    assert replaced == ["unpacked"]
    with pytest.raises(installer.InstallError, match="official: git ls-remote: no network$"):
        installer.install("python", "official", "address")

    monkeypatch.setattr(installer, "run", lambda command, **options: None)
    assert installer.install("python", None, "address").startswith("official repository, commit ")
    assert replaced[1:] == [f"git+address@{installer.COMMIT}"]


def test_run_reports_one_line(installer) -> None:
    with pytest.raises(installer.InstallError, match=rf"^{re.escape(Path(sys.executable).name)} -c: second$"):
        installer.run([sys.executable, "-c", "import sys; sys.exit('first\\nsecond\\n')"])
    with pytest.raises(installer.InstallError, match=r"^no answer to sleep 9 in 0\.1 s$"):
        installer.run(["sleep", "9"], timeout=0.1)
    with pytest.raises(installer.InstallError, match=r"^nowhere: No such file or directory$"):
        installer.run(["nowhere"])


def test_installed_detectron2_says_what_it_lacks() -> None:
    operators = importlib.import_module("detectron2._C")
    if Path(operators.__file__).suffix == ".py":
        with pytest.raises(RuntimeError, match="'box_iou_rotated' is compiled"):
            operators.box_iou_rotated(None, None)
        assert not operators.has_cuda()
    else:
        assert callable(operators.box_iou_rotated)


@pytest.mark.parametrize(("arguments", "installs"), [([], False), (["--force"], True)])
def test_an_importable_detectron2_is_left_alone(
    installer, monkeypatch: pytest.MonkeyPatch, arguments: list[str], installs: bool
) -> None:
    installed = []
    monkeypatch.setattr(installer, "is_importable", lambda python: True)
    monkeypatch.setattr(installer, "install", lambda *given: installed.append(given))
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "python", *arguments])
    installer.main()
    assert installed == ([("python", None, installer.REPOSITORY)] if installs else [])
