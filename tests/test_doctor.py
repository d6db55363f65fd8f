"""``skd doctor``: this machine, and machines that lack something."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skd_plugins.cli import main
from skd_plugins.commands import doctor
from skd_plugins.commands.doctor import Finding, examine


def found(what: str, folder: Path = Path()) -> list[Finding]:
    return [finding for finding in examine(folder) if finding.what == what]


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems"
    assert f"ok      torch: {torch.__version__.partition('+')[0]}" in [line.partition("+")[0] for line in lines]
    for what in (
        "skd_plugins",
        "python",
        "timm",
        "accelerate",
        "processor",
        "FFCV",
        "detectron2",
        "cache of weights",
        "open files",
    ):
        assert sum(line[8:].startswith(f"{what}: ") for line in lines) == 1, what


def test_every_note_and_problem_has_advice() -> None:
    findings = list(examine())
    assert len(findings) >= 12
    assert all(bool(finding.advice) == (finding.state != "ok") for finding in findings)


@pytest.mark.parametrize(
    ("what", "change", "state", "text"),
    [
        ("timm", lambda patch: patch.setattr(doctor.metadata, "version", lambda name: "1.0.5"), "problem", "1.0.27"),
        ("FFCV", lambda patch: without(patch, "ffcv"), "note", "skd_plugins[ffcv]"),
        ("detectron2", lambda patch: without(patch, "detectron2"), "note", "no detection"),
        ("disk", lambda patch: space(patch, free=2**30), "note", "1 GiB free"),
        ("/dev/shm", lambda patch: space(patch, total=2**26), "note", "--shm-size"),
        ("cache of weights", lambda patch: read_only(patch), "problem", "SKD_CACHE"),
        ("disk", lambda patch: read_only(patch), "problem", "--out"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(
    what: str,
    change: Callable[[pytest.MonkeyPatch], None],
    state: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(monkeypatch)
    finding = found(what)[-1]
    assert finding.state == state
    assert text in finding.found + finding.advice


def without(patch: pytest.MonkeyPatch, package: str) -> None:
    real = doctor.importlib.util.find_spec
    patch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == package else real(name))


def read_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor.os, "access", lambda *_: False)


def space(patch: pytest.MonkeyPatch, free: int = 2**40, total: int = 2**40) -> None:
    usage: Any = SimpleNamespace(free=free, total=total)
    patch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_problem_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_python", lambda: iter([Finding("problem", "python", "too old", "a newer one")]))
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert capsys.readouterr().out.endswith("1 problem\n")


def test_a_check_that_fails_is_a_problem_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_ffcv", broken)
    findings = list(examine())
    assert [finding.found for finding in findings if finding.state == "problem"] == [
        "the check failed: RuntimeError: no such thing"
    ]
    assert findings[-1].what == "open files"
