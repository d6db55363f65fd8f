"""What is shown of progress: nothing of short things, few lines without a terminal, a live line on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from skd_plugins.common import meter
from skd_plugins.common.meter import Meter, clock, quieten_bars, tracked

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


def test_a_line_a_minute_where_no_terminal_is(seconds: None, capfd: pytest.CaptureFixture[str]) -> None:
    """The meter begins at 0 s and item k is done at k s."""
    assert list(tracked(range(150), "counting")) == list(range(150))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["counting: 40%, 0:01:00, ETA 0:01:30", "counting: 80%, 0:02:00, ETA 0:00:30"]


def test_sizes(seconds: None, capfd: pytest.CaptureFixture[str]) -> None:
    """60 of 120 items, the first half three times as large as the second."""
    list(tracked(range(120), "counting", total=240, size=lambda item: 3 if item < 60 else 1))
    assert capfd.readouterr().err.splitlines()[0] == "counting: 75%, 0:01:00, ETA 0:00:20"


def test_an_unknown_number(seconds: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(tracked((item for item in range(100)), "counting")) == 4950
    assert capfd.readouterr().err == "counting: 0:01:00\n"


def test_a_meter_within_another_shows_nothing(seconds: None, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in tracked(range(2), "outer"):
        list(tracked(range(100), "inner"))
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("outer") for line in lines)
    list(tracked(range(100), "inner"))
    assert capfd.readouterr().err.startswith("inner"), "afterwards it does"


def test_only_the_first_process_shows_it(
    seconds: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    list(tracked(range(500), "counting"))
    assert capfd.readouterr().err == ""


def test_an_error_goes_through(seconds: None) -> None:
    failing = Meter("failing", 10)
    with pytest.raises(ZeroDivisionError), failing:
        failing.advance(1 / 0)
    assert Meter._open == 0


@pytest.mark.parametrize("end", ["", "; raise SystemExit(3)", "; 1 / 0"], ids=["done", "exit", "error"])
def test_a_live_line_on_a_terminal(end: str) -> None:
    """It disappears at the end and gives the cursor back, also when the work fails."""
    code = (
        "import time; from skd_plugins import meter; meter._DELAY = 0.2\n"
        f"for i in meter.tracked(range(10), 'counting'):\n  time.sleep(0.1)\n  if i == 8: pass{end}"
    )
    main, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=terminal, env=os.environ | {
        "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}, stdout=subprocess.DEVNULL)  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(main, 1 << 16):
            shown += block
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(main)
    assert process.wait() == {"": 0, "; raise SystemExit(3)": 3, "; 1 / 0": 1}[end]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"counting .+ [3-9]0%.* 0:00:0\d.* ETA 0:00:0\d", text)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is back"


def test_libraries_bars_are_quiet_without_a_terminal() -> None:
    code = (
        "from skd_plugins.common.meter import quieten_bars; quieten_bars()\n"
        "from tqdm import tqdm; import time\nfor i in tqdm(range(30)): time.sleep(0.02)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert 1 <= done.stderr.count("it/s") <= 2, "the beginning and the end"
    assert "30/30" in done.stderr


def test_users_settings_of_the_bars_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_MININTERVAL", "5")
    monkeypatch.setenv("TQDM_MAXINTERVAL", "50")
    quieten_bars()
    assert os.environ["TQDM_MININTERVAL"] == "5"
