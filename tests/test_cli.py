"""The ``skd`` command and the recipes' command line: what they do, and one line and exit code 2 for bad input."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skd_plugins.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
TINY = ['model_args={"channels": [8, 8, 16, 16]}', "epochs=1", "trackers=[]"]


def test_the_commands_are_frozen() -> None:
    assert sorted(COMMANDS) == [
        *("compare", "demo", "evaluate", "export", "list", "release", "timm-train", "weights", "write")
    ]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: skd {command}" in capsys.readouterr().out


def recipe_main(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a recipe file as ``python recipes/NAME.py ARGUMENTS`` does, in this process."""
    path = ROOT / "recipes" / f"{name}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")


def test_write_train_evaluate_compare_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "runs"
    main(["write", "digits", "--out", str(data), "--per-class", "5", "--raw-share", "1", "--workers", "1"])
    assert "train: 50 images, 10 classes" in capsys.readouterr().out
    assert json.loads((data / "train.beton.json").read_text())["num_samples"] == 50

    for name in ("digits_ce", "digits_sddropout"):
        recipe_main(name, ["--data", str(data), "--out", str(out), *TINY], monkeypatch)
    printed = capsys.readouterr().out
    runs = [line.removeprefix("done: ") for line in printed.splitlines() if line.startswith("done: ")]
    assert runs == [str(out / f"resnet10t_digits.{tag}" / "seed0") for tag in ("ce", "sdd")]

    for run in runs:
        main(["evaluate", run, "--data", str(data)])
        assert (Path(run) / "evaluation" / "report.html").exists()
    main(["compare", *runs, "--out", str(tmp_path / "compare.html")])
    text = capsys.readouterr().out
    assert "resnet10t_digits.sdd" in text
    assert (tmp_path / "compare.html").exists()
    main(["export", runs[1], "--out", str(tmp_path / "weights")])
    assert (tmp_path / "weights" / "resnet10t_digits.sdd.safetensors").exists()


def test_dry_run_prints_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe_main("imagenet_r152_sddropout", ["--dry-run", "--out", str(tmp_path)], monkeypatch)
    text = capsys.readouterr().out
    for expected in ("60,192,808", "450,450", "1,281,167", "sd_dropout", "resnet152"):
        assert expected in text
    assert not list(tmp_path.iterdir()), "nothing is done"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("ce", "cs_kd", "sd_dropout", "Eq. 1", "Eq. 3-5"))


BAD = {
    "unknown field": (["epocs=3"], "did you mean 'epochs'"),
    "value of a wrong type": (["method_args.weight=abc"], "weight should be a valid number"),
    "missing data": (["--data", "nowhere"], "nowhere does not exist"),
    "class count": (["--data", "DATA", "num_classes=7"], "has 10 classes, but the network would have 7"),
    "truncated .beton": (["--data", "TRUNCATED"], "is truncated or damaged"),
    "broken image": (["--data", "BROKEN"], "can't be decoded"),
    "not a field": (["what"], "expected field=value"),
}


def test_there_is_bad_input() -> None:
    assert BAD


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, digits_beton: Path, beton: Path, copied: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments, message = BAD[name]
    places = {"DATA": digits_beton}
    if "TRUNCATED" in arguments:
        places["TRUNCATED"] = copied(digits_beton / "train.beton").parent
        path = places["TRUNCATED"] / "train.beton"
        shutil.copy(digits_beton / "val.beton", path.parent)
        os.truncate(path, path.stat().st_size // 2)
    if "BROKEN" in arguments:
        from skd_plugins.data.beton import BetonFile

        places["BROKEN"] = copied(beton).parent
        path = places["BROKEN"] / "train.beton"
        for ending in ("", ".json", ".crc32"):
            shutil.copy(f"{beton}{ending}", path.parent / f"val.beton{ending}")
        data = BetonFile(path)
        with path.open("r+b") as file:
            file.seek(int(data._pointers[3]) + int(data._sizes[3]) // 2)
            file.write(bytes(int(data._sizes[3]) // 3))
        arguments = [*arguments, "batch_size=8"]
    arguments = [str(places.get(argument, argument)) for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        recipe_main("digits_sddropout", ["--out", str(tmp_path / "runs"), *TINY, *arguments], monkeypatch)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    if name == "broken image":
        assert "image 3 of" in lines[0]
        assert str(path) in lines[0]


def test_a_real_process_shows_no_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        str(ROOT / "recipes" / "digits_ce.py"),
        "--data",
        str(tmp_path / "no"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: data path {tmp_path / 'no'} does not exist"
    done = subprocess.run(
        [sys.executable, "-m", "skd_plugins.cli", "evaluate", "no.pt"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: checkpoint no.pt does not exist"
