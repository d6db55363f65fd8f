"""The ``skd`` command and the recipes' command line: what they do; bad input gives one line and exit code 2."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import miniatures
import pytest
from faults.common import python

import skd_plugins
from skd_plugins import list_methods
from skd_plugins.cli import COMMANDS, main
from skd_plugins.commands.listed import found
from skd_plugins.methods.overview import method_rows

ROOT = Path(__file__).parents[1]


FROZEN = {
    "compare": "--out",
    "data": "--root --out --part --download --subset --max-resolution --jpeg-quality --raw-share --workers --folder",
    "demo": "--out --seeds",
    "doctor": "",
    "evaluate": "--data --out --which --raw --recipe --batch-size --workers --skip-broken --save-predictions "
    "--attack --eps --image-size --flip",
    "export": "--out --name --format --which --raw",
    "init": "",
    "list": "",
    "release": "--tag --out --data --url --manifest --license --detectron2 --which --raw",
    "reproduce": "--scale --data --out --seeds --jobs --slurm --dry-run --commands --list",
    "study": "--data --variants --test --seeds --first-seed --out --jobs",
    "timm-train": "--timm --method --method-args",
    "torchvision-train": "--references --method --method-args",
    "weights": "",
    "write": "--out --root --split --per-class --max-resolution --jpeg-quality --raw-share --workers --folder",
}


def test_the_commands_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(COMMANDS) == sorted(FROZEN)
    main(["--version"])
    assert capsys.readouterr().out == f"skd_plugins {skd_plugins.__version__}\n"
    for command, options in {"": "", **FROZEN}.items():
        with pytest.raises(SystemExit, match="0"):
            main([*command.split(), "--help"])
        text = capsys.readouterr().out
        assert f"usage: skd {command}".strip() in text
        assert set(options.split()) <= set(re.findall(r"--[a-z][a-z0-9-]*", text)), command


def recipe_main(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a recipe file as ``python recipes/NAME.py ARGUMENTS`` does, in this process."""
    path = ROOT / "recipes" / f"{name}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")


SMALL: dict[str, dict[str, object]] = {
    "cskd_cifar100": {"channels": [8, 8, 16, 16]},
    "sdd_cifar100_densenet121": {"growth_rate": 4, "block_config": [1, 1, 1, 1]},
}


def test_from_an_archive_to_evaluated_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a miniature of CIFAR-100: skd data, recipes of the papers, evaluate, compare, export, evaluate the export."""
    data, weights = str(tmp_path / "data"), tmp_path / "weights"
    root = miniatures.cifar100(tmp_path, monkeypatch)
    main(["data", "cifar100", "--root", str(root), "--out", data, "--subset", "--workers", "1"])
    for recipe, model_args in SMALL.items():
        short = ["epochs=1", "batch_size=5", "trackers=[]", f"model_args={json.dumps(model_args)}"]
        recipe_main(recipe, ["--data", data, "--out", str(tmp_path / "runs"), *short], monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    runs = [Path(line.removeprefix("done: ")) for line in printed if line.startswith("done: ")]
    assert len({run.parent.name for run in runs}) == len(SMALL)
    for run in runs:
        main(["evaluate", str(run), "--data", data])
        assert (run / "evaluation" / "report.html").exists()
        main(["export", str(run), "--out", str(weights)])
        exported = weights / f"{run.parent.name}.safetensors"
        main(["evaluate", str(exported), "--data", data, "--out", str(tmp_path / "exported")])
        reports = [folder / "metrics.json" for folder in (run / "evaluation", tmp_path / "exported")]
        one, other = (json.loads(report.read_text())["metrics"] for report in reports)
        assert one == other
        assert one["num_samples"] == 10
    main(["compare", *map(str, runs), "--out", str(tmp_path / "compare.html")])
    assert all(run.parent.name in (tmp_path / "compare.html").read_text() for run in runs)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "methods"])
    printed = capsys.readouterr().out
    assert {*list_methods(), "25,557,032"} <= set(printed.split())
    main(["list"])
    assert capsys.readouterr().out == printed
    main(["list", "models"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "11,217,444 (100 classes)" in rows["preact_resnet18_cifar"]
    assert rows["preact_resnet18_cifar"].rstrip().endswith("32 px")
    main(["list", "datasets"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["cub200"].split()[1:4] == ["200", "5,994", "5,794"]
    assert rows["cifar100c"].split()[1:4] == ["100", "-", "10,000"]


def test_data_says_checks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = miniatures.mit67(tmp_path / "root"), tmp_path / "out"
    main(["data", "mit67"])
    assert "5,360 training and 1,340 evaluation" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["data", "mit67", "--root", str(root)])
    assert capsys.readouterr().err == (
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
    listed = json.loads((ROOT / "skd_plugins/commands/listed.json").read_text())
    assert listed == json.loads(json.dumps(found())), "run: python -m skd_plugins.commands.listed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "data path nowhere does not exist; write the data with skd write "),
        (["batch_size=8"], "08.jpg (index 8) can't be decoded"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, jpeg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for half in ("train", "val"):
        shutil.copytree(jpeg_folder, tmp_path / half)
    broken = tmp_path / "train" / "bee" / "08.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    places = ["--data", str(tmp_path), "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match="2"):
        recipe_main("digits_sddropout", [*places, "epochs=1", "trackers=[]", *arguments], monkeypatch)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_a_real_process_shows_no_traceback(tmp_path: Path) -> None:
    done = python("-m", "skd_plugins.cli", "evaluate", tmp_path / "no.pt")
    assert done.returncode == 2
    assert done.stderr == f"error: checkpoint {tmp_path / 'no.pt'} does not exist\n"
