"""What is shown of a training's progress."""

import re
from itertools import count

import pytest

from skd_plugins.common.meter import clock
from skd_plugins.training import progress
from skd_plugins.training.progress import Progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds a second more."""
    ticks = count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def test_a_training_without_a_terminal(seconds: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A line an epoch with the time that is left, and one every five minutes within an epoch."""
    shown = Progress(enabled=True, total=1000, start=500, name="run")
    with shown.bar:
        for step in range(250):
            shown.step(images=8)
            shown.rates()
            shown.show(0, {"loss": 1.0}, 0.1)
            assert list(shown.validation([1, 2], 2)) == [1, 2]
            if step == 9:
                early = capsys.readouterr().out
        shown.validated(0, {"top1": 0.5, "top5": 0.9, "nll": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert early == ""
    assert len(lines) == 1
    assert lines[0].startswith("epoch   1")
    assert re.search(r"ETA 0:0\d:\d\d$", lines[0])


def test_a_long_epoch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(enabled=True, total=100, start=0, name="run")
    for _ in range(10):
        now += 100
        shown.step(images=8)
        shown.rates()
        shown.show(0, {"loss": 1.0}, 0.1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 3/100", "step 6/100", "step 9/100"]
    assert [line.rpartition("ETA ")[2] for line in lines] == [clock(9700), clock(9400), clock(9100)]
