"""Progress of long tasks on stderr: a live line on a terminal, a line a minute elsewhere."""

import atexit
import os
import sys
import time
from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
_DELAY = 2.0  # seconds; shorter tasks show nothing
_REDRAW = 0.1  # seconds between two updates of the live line
_PAUSE = 60.0  # seconds between two lines without a terminal


def clock(seconds: float) -> str:
    """``1:02:03``, or a dash if the time is not known."""
    if not 0 <= seconds < 1e9:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Meter:
    """Shows the progress of a task in the first process; a meter inside another one stays silent.

    Args:
        what: the task in a word or two.
        total: the sum of all amounts, in any unit; None if it is not known.
    """

    _open = 0

    def __init__(self, what: str, total: float | None) -> None:
        self.what, self.total, self.done = what, total, 0.0
        columns = BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
        console = Console(stderr=True, highlight=False)
        self._bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
        self._task = self._bar.add_task(what, total=total)
        self._live = console.is_interactive
        self._begin = time.monotonic()
        self._next = self._begin + (_DELAY if self._live else _PAUSE)

    def __enter__(self) -> "Meter":
        if Meter._open or os.environ.get("RANK", "0") != "0":
            self._next = float("inf")
        Meter._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        Meter._open -= 1
        if self._live:
            self._bar.stop()

    def advance(self, amount: float = 1) -> None:
        """Adds to what is done."""
        self.done += amount
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_REDRAW if self._live else _PAUSE)
        elapsed = now - self._begin
        if self._live:
            self._bar.update(self._task, completed=self.done)
            if not self._bar.live.is_started:
                self._bar.start()
                atexit.register(self._bar.stop)  # gives the cursor back even if an error leaves a generator unfinished
        elif self.total and self.done:
            left = clock(elapsed * (self.total / self.done - 1))
            print(f"{self.what}: {self.done / self.total:.0%}, {clock(elapsed)}, ETA {left}", file=sys.stderr)
        else:
            print(f"{self.what}: {clock(elapsed)}", file=sys.stderr)


def tracked(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Passes the items on and shows the progress; `total` is their number, if they do not tell it."""
    with Meter(what, total or length_hint(items, 0) or None) as meter:
        for item in items:
            yield item
            meter.advance()


def quieten_bars() -> None:
    """Without a terminal, makes other libraries' tqdm bars write once a minute; call it before tqdm is imported."""
    if not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, str(_PAUSE))
