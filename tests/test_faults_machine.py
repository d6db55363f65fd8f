"""Short versions of the campaigns with the machine; `make faults` runs them at full length."""

from pathlib import Path

import pytest
from faults import contention, interrupted, leaks, surroundings


@pytest.mark.parametrize("name", ["one training twice", "one file written twice", "one cache made by four"])
def test_two_at_the_same_time(name: str, tmp_path: Path) -> None:
    fine, story = contention.CASES[name](tmp_path)
    assert fine, story


def test_odd_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("clock jumps", "home not writable", "/dev/shm of 16 MB")
    monkeypatch.setattr(surroundings, "CASES", {name: surroundings.CASES[name] for name in chosen})
    surroundings.run(3, tmp_path).verdict(3)


def test_a_killed_writer(tmp_path: Path) -> None:
    interrupted.run(3, tmp_path).verdict(3)


def test_nothing_leaks(tmp_path: Path) -> None:
    leaks.run(20, tmp_path).verdict(4)
