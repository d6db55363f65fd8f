"""`torchvision_train` on a stand-in for torchvision's train.py."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.common import together
from test_timm_train import timm_data  # noqa: F401  a fixture
from torchvision.models import shufflenet_v2_x0_5

from skd_plugins import create_task
from skd_plugins.commands.scripts import torchvision_train
from skd_plugins.common.errors import SkdError
from skd_plugins.common.scripts import run_patched

STANDIN = Path(__file__).parent / "standin_torchvision"
KEYS = list(shufflenet_v2_x0_5(num_classes=10).state_dict())


def run_standin(method: str, data: Path, out: Path, *arguments: str) -> None:
    """Runs the stand-in, without us if there is no method."""
    out.mkdir(exist_ok=True)
    given = ["--data-path", str(data), "--output-dir", str(out), *arguments]
    if method:
        torchvision_train(STANDIN, method.split()[0], method.split()[1:], given)
    else:
        run_patched(STANDIN / "train.py", given, [(sys, "path", [str(STANDIN), *sys.path])])


def standin(method: str, data: Path, out: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run records, and its checkpoint."""
    run_standin(method, data, out, *arguments)
    return read(out)


def read(out: Path, rank: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    record, checkpoint = (torch.load(out / name, weights_only=False) for name in (f"record.{rank}", "checkpoint.pth"))
    return record, checkpoint


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for part in {"model", "model_ema", "task_state"} & a.keys():
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(value, b[part][key]) for key, value in a[part].items()), part
    momentum = [[state["momentum_buffer"] for state in x["optimizer"]["state"].values()] for x in (a, b)]
    assert all(torch.equal(*pair) for pair in zip(*momentum, strict=True))


@pytest.mark.parametrize("mixup", ["0", "0.4"])
def test_ce_is_bit_equal_to_the_script(data: dict[str, Path], tmp_path: Path, mixup: str) -> None:
    results = [
        standin(method, data["folder"], tmp_path / f"{method}.", "--mixup-alpha", mixup) for method in ("", "ce")
    ]
    assert_equal(results[0][1], results[1][1])
    assert results[0][0]["test"] == results[1][0]["test"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("sd_dropout", {"weight": "0.1"}), ("cs_kd", {}), ("cs_kd", {"pairing": "batch"}), ("dml", {}), ("ps_kd", {}),
        ("sd_dropout", {"base": "cs_kd", "base_args.pairing": "bank"}),
    ],
)  # fmt: skip
def test_losses_keys_and_resume(data: dict[str, Path], tmp_path: Path, method: str, arguments: dict[str, str]) -> None:
    given = [" ".join([method, *map("=".join, arguments.items())]), data["folder"]]
    record, part = standin(*given, tmp_path / "part")
    torch.manual_seed(1)
    network = shufflenet_v2_x0_5(num_classes=10)
    if "base" in arguments:
        arguments = {"base": "cs_kd", "base_args": {"pairing": "bank"}}
    task = create_task(method, network, torch.nn.CrossEntropyLoss(label_smoothing=0.1), **arguments)
    task.method.begin_epoch(0, 1)
    torch.set_rng_state(record["rng"])
    expected = task(record["image"], torch.cat([record["targets"][0]] * len(task.method.segments)))
    assert record["loss"] == expected["loss"].item()
    assert torch.equal(record["output"], expected["output"])
    assert torch.bincount(torch.cat(record["targets"])).tolist() == [8] * 10, "every anchor once"
    assert list(part["model"]) == KEYS
    assert list(part["model_ema"]) == ["n_averaged", *(f"module.{key}" for key in KEYS)]
    assert part.get("task_state", {}).keys() == task.get_task_state().keys()
    assert len(part["optimizer"]["state"]) == len(list(task.method.parameters()))

    _, whole = standin(*given, tmp_path / "whole", "--epochs", "2")
    resume = ["--epochs", "2", "--resume", str(tmp_path / "part" / "checkpoint.pth")]
    assert_equal(whole, standin(*given, tmp_path / "resumed", *resume)[1])
    if method == "dml":
        with pytest.raises(SkdError, match=r"state does not fit method 'ce' \(338 unexpected: peer.conv1.*; continue"):
            standin("ce", data["folder"], tmp_path / "ce", *resume)


def test_mixup_mixes_anchors_and_pairs_alike(data: dict[str, Path], tmp_path: Path) -> None:
    """Red is 25 times a picture's class. Each is mixed with its neighbour, and its pair with the neighbour's."""
    record, _ = standin("cs_kd", data["folder"], tmp_path / "out", "--mixup-alpha", "0.4")
    red = (record["image"][:, 0].mean(dim=(1, 2)) * 255 / 25).view(2, 8)
    target = record["targets"][0]
    assert (target > 0).sum(1).max() == 2
    assert torch.allclose(red, (target * torch.arange(10)).sum(1).expand(2, 8), atol=0.05)


def test_two_processes(data: dict[str, Path], tmp_path: Path) -> None:
    def work() -> None:
        for method in ("", "ce", "cs_kd", "dml"):
            run_standin(method, data["folder"], tmp_path / f"{method}.")
        run_standin("cs_kd", data["folder"], tmp_path / "repeated", "--ra-sampler")

    together(work, tmp_path)
    assert_equal(read(tmp_path / ".")[1], read(tmp_path / "ce.")[1])
    for method, images in (("cs_kd", 16), ("dml", 8)):
        records = [read(tmp_path / f"{method}.", rank)[0] for rank in (0, 1)]
        assert [len(record["image"]) for record in records] == [images] * 2
        assert torch.bincount(torch.cat(records[0]["targets"] + records[1]["targets"])).tolist() == [8] * 10
        assert list(read(tmp_path / f"{method}.")[1]["model"]) == KEYS
    repeated, again = (read(tmp_path / "repeated", rank)[0] for rank in (0, 1))
    anchors = [{round(green * 255 / 3) for green in r["image"][:8, 1, 0, 0].tolist()} for r in (repeated, again)]
    assert anchors[0] == anchors[1], "each process has a copy of the step's eight images"
    assert len(anchors[0]) == 8


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("cs_kd pairing=batch", "--mixup-alpha 0.2", "needs class indices .*; leave out --mixup-alpha and --cutmix"),
        ("cs_kd pairing=batch", "--ra-sampler", "--ra-sampler would make an image its own partner in cs_kd's batches"),
        ("ce", "--data-path nowhere", "--data-path: nowhere/train does not exist"),
        ("ce", "--resume nowhere.pth", "--resume: nowhere.pth does not exist"),
        ("ce", "--model resnet19", "unknown torchvision model 'resnet19'; did you mean 'resnet18'"),
        ("cs_kd_e", "", "a 'clean' segment needs two transforms"),
        ("adacos", "", "a cosine classifier, which torchvision's train.py can't make"),
    ],
)
def test_refused(data: dict[str, Path], tmp_path: Path, method: str, arguments: str, message: str) -> None:
    before = [torch.save, torch.load, torch.nn.CrossEntropyLoss, torch.utils.data.DataLoader, list(sys.path)]
    with pytest.raises(SkdError, match=message):
        standin(method, data["folder"], tmp_path / "out", *arguments.split())
    assert before == [torch.save, torch.load, torch.nn.CrossEntropyLoss, torch.utils.data.DataLoader, sys.path]
    with pytest.raises(SkdError, match=r"can't read .*train.py .*; get references/classification from"):
        torchvision_train(tmp_path, "ce", [], [])
