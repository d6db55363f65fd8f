"""Progress of tasks and trainings: nothing for short ones, few lines without a terminal, a live line on one."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from faults.common import python
from rich.console import Console

from skd_plugins.common import meter
from skd_plugins.common.meter import clock, tracked
from skd_plugins.training.progress import Progress

ROOT = Path(__file__).parents[1]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds a second more."""
    ticks = count()
    monkeypatch.setattr(meter.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize(
    ("time", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (360_000, "100:00:00"), (float("nan"), "–"), (-1, "–")],
)
def test_clock(time: float, text: str) -> None:
    assert clock(time) == text


def test_short_things_show_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(1000), "counting")) == list(range(1000))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("run", "lines"),
    [
        (
            lambda: list(tracked(range(150), "counting")),
            ["counting: 40%, 0:01:00, ETA 0:01:30", "counting: 80%, 0:02:00, ETA 0:00:30"],
        ),
        (lambda: list(tracked((item for item in range(100)), "counting")), ["counting: 0:01:00"]),
        (lambda: list(tracked(range(100), "reading", 400, lambda: 300)), ["reading: 75%, 0:01:00, ETA 0:00:20"]),
        (
            lambda: [list(tracked(range(60), "inner")) for _ in tracked(range(2), "outer")],
            ["outer: 50%, 0:01:02, ETA 0:01:02", "outer: 100%, 0:02:04, ETA 0:00:00"],
        ),
    ],
    ids=["items", "unknown number", "amounts", "nested"],
)
def test_a_line_a_minute_without_a_terminal(
    run: Callable[[], object], lines: list[str], seconds: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The meter begins at 0 s, and every step takes a second."""
    run()
    assert capfd.readouterr().err.splitlines() == lines


def test_only_the_first_process_shows_it_and_an_error_goes_through(
    seconds: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tracked(range(10), "failing")
    next(failing)
    with pytest.raises(ZeroDivisionError):
        failing.throw(ZeroDivisionError())  # type: ignore[attr-defined]  # it is a generator
    list(tracked(range(100), "afterwards"))
    assert capfd.readouterr().err.startswith("afterwards")
    monkeypatch.setenv("RANK", "1")
    list(tracked(range(500), "counting"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("; 1 / 0", 1)])
def test_a_live_line_on_a_terminal(end: str, code: int) -> None:
    """It disappears at the end and gives the cursor back, also when the work fails."""
    work = (
        "import time; from skd_plugins.common import meter; meter._DELAY = 0.2\n"
        f"for i in meter.tracked(range(10), 'counting'):\n  time.sleep(0.1)\n  if i == 8: pass{end}"
    )
    main, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", work], stderr=terminal, env=os.environ | {
        "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}, stdout=subprocess.DEVNULL)  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(main, 1 << 16):
            shown += block
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(main)
    assert process.wait() == code
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"counting .+ [3-9]0%.* 0:00:0\d.* ETA 0:00:0\d", text)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is back"


def test_libraries_bars_are_quiet_without_a_terminal() -> None:
    code = (
        "from skd_plugins.common.meter import quieten_bars; quieten_bars()\n"
        "from tqdm import tqdm; import time\nfor i in tqdm(range(30)): time.sleep(0.02)"
    )
    done = python("-c", code)
    assert done.stderr.count("it/s") in (1, 2)


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


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_line_has_room_for_the_bar_and_the_clock(width: int) -> None:
    shown = Progress(enabled=True, total=78_000, start=39_000, name="preact_resnet18.cskd_cifar100")
    shown.step(images=8)
    shown.show(11, {"loss": 3.0, "ce": 2.0, "kd": 1.0}, 0.1)
    console = Console(width=width, color_system=None)
    with console.capture() as printed:
        console.print(shown.bar.get_renderable())
    bar, text = printed.get().splitlines()
    done = re.fullmatch(r"preact_resnet18.cskd_cifar100 (━+)╸?( *) 39001/78000 0:00:0\d ETA -:--:--", bar)
    assert done is not None
    assert len(bar) == width
    assert len(done[1]) == pytest.approx(len(done[2]), abs=1)
    assert text.startswith("epoch 12  loss 3.000 ce 2.000 kd 1.000  lr 1.00e-01  ")


def test_a_long_epoch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(meter.time, "monotonic", lambda: now)
    shown = Progress(enabled=True, total=100, start=0, name="run")
    for _ in range(10):
        now += 100
        shown.step(images=8)
        if shown.due():
            shown.show(0, {"loss": 1.0}, 0.1)
        assert "loss 1.000" in shown.bar.text, "from the first step on"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 3/100", "step 6/100", "step 9/100"]
    assert [line.rpartition("ETA ")[2] for line in lines] == [clock(9700), clock(9400), clock(9100)]
