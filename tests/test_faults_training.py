"""Short versions of the campaigns against trainings; `make faults` runs them at full length."""

from pathlib import Path

import pytest
from faults import disk, kills, numbers, ranks
from faults.common import TINY, launch, ranked, refused, replace, tiny_data, training


def test_a_process_that_hangs_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CASES", [("hangs", 1, "step")])
    ranks.run(1, tmp_path).verdict(1)


def test_machines_that_do_not_share_the_folder_are_refused(tmp_path: Path) -> None:
    data, recipe = tiny_data()["beton"], replace(TINY, epochs=2, timeout_minutes=0.5)
    assert [one.end().returncode for one in launch(2, replace(TINY, epochs=1), data, tmp_path / "0")] == [0, 0]
    pair = [training(recipe, data, tmp_path / str(n), "--resume", **own) for n, own in enumerate(ranked(2))]
    for done in [one.end(120) for one in pair]:
        assert refused(done.returncode, done.stderr, "find checkpoints of different steps", "(5, 0, 0 for none)")


def test_full_and_read_only_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "CASES", [(40, ("tensorboard",)), ("read-only", ())])
    disk.run(2, tmp_path).verdict(2)


def test_what_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("loss is NaN, logged later", "gradients are infinite in the last step of an epoch")
    monkeypatch.setattr(numbers, "FINITE", {name: numbers.FINITE[name] for name in chosen})
    numbers.run(11, tmp_path).verdict(11)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills.run(4, tmp_path).verdict(4)
