"""``skd doctor``: this machine, and machines that lack something."""

import importlib
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skd_plugins.cli import main
from skd_plugins.commands import doctor
from skd_plugins.commands.doctor import Finding, examine
from skd_plugins.common.errors import SkdError
from skd_plugins.data.beton import file


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems"
    assert f"ok      torch: {torch.__version__.partition('+')[0]}" in [line.partition("+")[0] for line in lines]
    named = [line[8:].partition(":")[0] for line in lines]
    assert {"skd_plugins", "timm", "ffcv", "machine", "decoder", "detectron2", "disk", "cache of weights"} <= set(named)


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: object) -> Any:
        raise error

    return call


def without(module: str, error: Exception) -> Callable[[str], Any]:
    """`importlib.import_module` where a module can't be imported."""

    def load(name: str) -> Any:
        if name.startswith(module):
            raise error
        return importlib.__import__(name)

    return load


def space(**sizes: int) -> Callable[[object], Any]:
    return lambda _: SimpleNamespace(**{"free": 2**40, "total": 2**40} | sizes)


# What is found, and how the machine is changed: an object's attribute and its stand-in; problem or note; words.
LACKING: dict[str, tuple[str, object, str, object, bool, str]] = {
    "an old timm": ("timm", metadata, "version", lambda name: "1.0.5", True, "pip install 'timm<1.1,>=1.0."),
    "no FFCV": ("FFCV", importlib, "import_module", without("ffcv", ModuleNotFoundError()), False, "make setup"),
    "a broken FFCV": ("FFCV", importlib, "import_module", without("ffcv", OSError("libopencv")), True, "libopencv"),
    "a broken detectron2": (
        "detectron2",
        importlib,
        "import_module",
        without("detectron2", ImportError("undefined symbol")),
        True,
        "--force-reinstall",
    ),
    "no decoder": ("decoder", file, "library", raising(SkdError("no: install libjpeg-dev")), False, "libjpeg-dev"),
    "little space": ("disk", shutil, "disk_usage", space(free=2**30), False, "1 GiB free"),
    "little shared memory": ("/dev/shm", shutil, "disk_usage", space(total=2**26), False, "--shm-size"),
    "no place for runs": ("disk", os, "access", lambda *_: False, True, "--out"),
    "no place for weights": ("cache of weights", os, "access", lambda *_: False, True, "SKD_CACHE"),
    "a check that fails": ("gpu", doctor, "machine", raising(RuntimeError("no driver")), True, "Error: no driver"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_is_missing_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what, owner, attribute, value, problem, text = LACKING[name]
    monkeypatch.setattr(owner, attribute, value)
    findings = list(examine())
    (finding,) = [one for one in findings if one.what == what and text in one.found + one.advice]
    assert finding.problem == problem
    assert findings[-1].what == "/dev/shm", "the other checks go on"


def test_a_problem_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("python", "too old", "get a newer one", problem=True)])
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert capsys.readouterr().out == "problem python: too old\n        get a newer one\n1 problem\n"
