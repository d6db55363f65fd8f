"""The ``skd`` command and the recipes' command line: what they do; bad input gives one line and exit code 2."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import miniatures
import pytest

import skd_plugins
from skd_plugins import list_methods
from skd_plugins.cli import COMMANDS, main
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.methods.table import method_rows

ROOT = Path(__file__).parents[1]
TINY = ['model_args={"channels": [8, 8, 16, 16]}', "epochs=1", "trackers=[]"]


FROZEN = {
    "compare": "--out",
    "data": "--root --out --part --download --subset --max-resolution --jpeg-quality --raw-share --workers --folder",
    "demo": "--out --seeds",
    "doctor": "",
    "evaluate": "--data --out --which --raw --batch-size --workers --skip-broken --save-predictions --attack --eps",
    "export": "--out --name --format --which --raw",
    "init": "",
    "list": "",
    "release": "--tag --out --data --url --manifest --license --detectron2 --which --raw",
    "reproduce": "--scale --data --out --seeds --jobs --slurm --dry-run --commands --list",
    "timm-train": "--timm --method --method-args",
    "weights": "",
    "write": "--out --root --split --per-class --max-resolution --jpeg-quality --raw-share --workers --folder",
}


def printed_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(COMMANDS) == sorted(FROZEN)
    text = printed_help([], capsys)
    assert all(f"• {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", FROZEN)
def test_no_option_is_lost(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_help([command], capsys)
    assert f"usage: skd {command}" in text
    assert set(FROZEN[command].split()) <= set(re.findall(r"--[a-z][a-z0-9-]*", text))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"skd_plugins {skd_plugins.__version__}\n"


def test_the_completion_script_knows_all_options(tmp_path: Path) -> None:
    script = tmp_path / "skd.bash"
    with pytest.raises(SystemExit):
        main(["--tyro-write-completion", "bash", str(script)])
    offer = 'source "$1"; COMP_WORDS=(skd evaluate --which "") COMP_CWORD=3; _tyro_skd; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-c", offer, "bash", script], capture_output=True, text=True, check=True)
    assert done.stdout == "last best\n"
    assert set(" ".join(FROZEN.values()).split()) <= set(re.findall(r"--[a-z][a-z0-9-]*", script.read_text()))


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


@pytest.mark.parametrize(
    ("recipe", "model_args"),
    [
        ("cskd_cifar100", {"channels": [8, 8, 16, 16]}),
        ("sdd_cifar100", {"channels": [8, 8, 16, 16]}),
        ("sdd_cifar100_densenet121", {"growth_rate": 4, "block_config": [1, 1, 1, 1]}),
    ],
)
def test_from_an_archive_to_evaluated_weights(
    recipe: str, model_args: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """skd data, a recipe of a paper, export, and evaluation of what was exported, on a miniature of CIFAR-100."""
    data = tmp_path / "data"
    root = miniatures.cifar100(tmp_path, monkeypatch)
    main(["data", "cifar100", "--root", str(root), "--out", str(data), "--subset", "--workers", "1"])
    short = ["epochs=1", "batch_size=5", "trackers=[]", f"model_args={json.dumps(model_args)}"]
    recipe_main(recipe, ["--data", str(data), "--out", str(tmp_path / "runs"), *short], monkeypatch)
    (run,) = (tmp_path / "runs").glob("*/seed0")
    main(["export", str(run), "--out", str(tmp_path / "weights")])
    (weights,) = (tmp_path / "weights").glob("*.safetensors")
    assert weights.stem == run.parent.name
    main(["evaluate", str(weights), "--data", str(data), "--out", str(tmp_path / "evaluation")])
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["metrics"]["num_samples"] == 10


def test_dry_run_prints_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe_main("imagenet_r152_sddropout", ["--dry-run", "--out", str(tmp_path)], monkeypatch)
    text = capsys.readouterr().out
    for expected in ("60,192,808", "450,450", "1,281,167", "sd_dropout", "resnet152"):
        assert expected in text
    assert not list(tmp_path.iterdir()), "nothing is done"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "methods"])
    printed = capsys.readouterr().out
    words = printed.split()
    assert all(name in words for name in list_methods())
    assert all(text in printed for text in ("Eq. 1", "Eq. 3-5", "25,557,032"))
    main(["list"])
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit):
        main(["list", "everything"])
    main(["list", "models"])
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines()}
    assert "11,217,444 (100 classes)" in rows["preact_resnet18_cifar"]
    assert rows["preact_resnet18_cifar"].rstrip().endswith("32 px")
    assert "224 px" in rows["resnet10"]
    assert "timm.list_models()" in printed
    assert "torchvision/NAME" in printed
    main(["list", "datasets"])
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["cub200"][1:4] == ["200", "5,994", "5,794"]
    assert rows["cifar100c"][1:4] == ["100", "-", "10,000"]


def test_data_says_checks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = miniatures.mit67(tmp_path / "root"), tmp_path / "out"
    main(["data", "mit67"])
    text = capsys.readouterr().out
    assert "5,360 training and 1,340 evaluation" in text
    with pytest.raises(SystemExit) as stopped:
        main(["data", "mit67", "--root", str(root)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == (
        "error: MIT67 training set has 9 images of 3 classes, officially 5,360 of 67; "
        f"complete {root}, or add --subset to accept a part of it\n"
    )
    main(["data", "mit67", "--root", str(root), "--subset"])
    assert "fine: MIT67 test set, 6 images, 3 classes" in capsys.readouterr().out
    main(["data", "mit67", "--root", str(root), "--subset", "--out", str(out), "--workers", "1"])
    assert json.loads((out / "val.beton.json").read_text())["options"]["raw_share"] == 0
    main(["write", "mit67", "--root", str(root), "--out", str(tmp_path / "again"), "--per-class", "2", "--folder"])
    assert len(list((tmp_path / "again" / "train").rglob("*.png"))) == 6


def test_the_methods_rows_are_right() -> None:
    rows = {row.name: row for row in method_rows()}
    assert list(rows) == list_methods()
    for name, row in rows.items():
        assert re.search(r"\(?[A-Z].* (19|20)\d\d", row.source), f"{name}'s first line names its source"
    assert rows["ce"][2:] == (("anchor",), 0, 1)
    assert rows["cs_kd"][2:] == (("anchor", "pair"), 0, pytest.approx(4 / 3))
    assert rows["cs_kd_e"][2:] == (("anchor", "pair", "clean"), 0, pytest.approx(5 / 3))
    assert rows["dml"][2:] == (("anchor",), 25_557_032, 2), "a ResNet-50"
    assert rows["byot"].extra > 0


BAD = {
    "unknown field": (["epocs=3"], "did you mean 'epochs'"),
    "value of a wrong type": (["method_args.weight=abc"], "weight should be a valid number"),
    "missing data": (["--data", "nowhere"], "data path nowhere does not exist; write the data with skd write "),
    "class count": (["--data", "DATA", "num_classes=7"], "has 10 classes, but the network would have 7"),
    "broken image": (["--data", "BROKEN"], "can't be decoded"),
    "not a field": (["what"], "expected field=value"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, digits_beton: Path, beton: Path, copied: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments, message = BAD[name]
    places = {"DATA": digits_beton}
    if "BROKEN" in arguments:
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
    command = [sys.executable, "-m", "skd_plugins.cli", "evaluate", str(tmp_path / "no.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == f"error: checkpoint {tmp_path / 'no.pt'} does not exist\n"
