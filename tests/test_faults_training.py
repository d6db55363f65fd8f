"""Short versions of the campaigns against trainings; `make faults` runs them at full length."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import disk, kills, numbers, ranks
from faults.common import TINY, replace, script, tiny_data


def test_a_process_that_dies_hangs_or_fails_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CASES", [ranks.CASES[index] for index in (0, 2)])
    ranks.run(2, tmp_path).verdict(2)


def test_machines_that_do_not_share_the_folder_are_refused(tmp_path: Path) -> None:
    data = tiny_data(tmp_path)["beton"]
    recipe, out = script(replace(TINY, epochs=2, timeout_minutes=0.5), tmp_path / "recipe.py"), tmp_path / "out"
    for process in ranks.start(script(replace(TINY, epochs=1), tmp_path / "first.py"), data, out):
        assert process.wait(120) == 0
    for process in ranks.start(recipe, data, out, "--resume", other_out=tmp_path / "empty"):
        assert process.wait(120) == 2
    for rank in range(2):
        said = (tmp_path / f"out-{rank}.txt").read_text()
        assert "find checkpoints of different steps" in said
        assert "(5, 0, 0 for none)" in said
        assert "Traceback" not in said


def test_full_and_read_only_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "CASES", [disk.CASES[index] for index in (1, 8)])
    disk.run(2, tmp_path).verdict(2)


def test_what_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("loss is NaN, logged later", "gradients are infinite in the last step of an epoch")
    monkeypatch.setattr(numbers, "FINITE", {name: numbers.FINITE[name] for name in chosen})
    monkeypatch.setattr(numbers, "SHAPES", {"one image": numbers.SHAPES["one image"]})
    numbers.run(3, tmp_path).verdict(3)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills.run(4, tmp_path).verdict(4)
