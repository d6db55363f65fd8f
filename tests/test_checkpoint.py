"""Checkpoints: whole or not there, and nothing in them is executed."""

import os
from pathlib import Path

import pytest
import torch
from conftest import full_disk

from skd_plugins import SkdError
from skd_plugins.common.files import write_text
from skd_plugins.common.locks import only_one
from skd_plugins.weights import checkpoint

CARD = {"model": "resnet18", "model_args": {}, "num_classes": 2, "classes": ["x", "y"], "recipe": {"name": "a.b"}}
STATE = {"state_dict": {"a": torch.arange(5.0)}, "step": 3, "epoch": 1, "steps_per_epoch": 3, "best": 0.5,
         "best_epoch": 0, "optimizer": {"state": {}, "param_groups": []}, "card": CARD}  # fmt: skip


def test_further_names_come_with_the_file_or_it_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path, also=["best.pt", "epoch0001.pt"])
    assert {checkpoint.load(file)["step"] for file in tmp_path.iterdir()} == {3}
    checkpoint.save(STATE | {"step": 4}, path, also=["best.pt"])
    steps = {file.name: checkpoint.load(file)["step"] for file in tmp_path.iterdir()}
    assert steps == {"last.pt": 4, "best.pt": 4, "epoch0001.pt": 3, "previous.pt": 3}
    (tmp_path / "epoch0002.pt").mkdir()  # in the way
    with pytest.raises(SkdError, match=r"can't write checkpoint .*epoch0002.pt"):
        checkpoint.save(STATE | {"step": 5}, path, also=["epoch0002.pt"])
    assert checkpoint.load(path)["step"] == 4, "a run that resumes from it makes the names again"
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "epoch0001.pt", "epoch0002.pt", "last.pt", "previous.pt"]


def test_links_of_others_are_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    for name in (".last.pt.part", ".last.pt.lock", f".a.json.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(other)
    checkpoint.save(STATE, tmp_path / "last.pt")
    write_text(tmp_path / "a.json", "ours")
    with pytest.raises(SkdError, match=r"can't write .*last.pt"), only_one(tmp_path / "last.pt"):
        pass
    assert other.read_text() == "theirs"
    assert (tmp_path / "a.json").read_text() == "ours"
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 3


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    with full_disk(1 << 20), pytest.raises(SkdError, match="the previous one is intact"):
        checkpoint.save(STATE | {"state_dict": {"a": torch.zeros(10**6)}}, path)
    assert checkpoint.load(path)["step"] == 3
    assert os.listdir(tmp_path) == ["last.pt"]


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SkdError, match="not a readable checkpoint"):
            checkpoint.load(path)
    with pytest.raises(SkdError, match="does not exist"):
        checkpoint.load(tmp_path / "no.pt")
    torch.save({key: value for key, value in STATE.items() if key not in ("best", "optimizer")}, path)
    with pytest.raises(SkdError, match=r"last\.pt is not a run's checkpoint: it has no best, optimizer$"):
        checkpoint.load(path)
