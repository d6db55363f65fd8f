"""How far something is that takes more than two seconds: a live line on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")
_DELAY = 2.0  # seconds; what takes less shows nothing
_REDRAW = 0.1  # seconds between two states of the live line
_PAUSE = 60.0  # seconds between two lines where no terminal is


def clock(seconds: float) -> str:
    """``1:02:03``; a dash where the time is not known."""
    if not 0 <= seconds < 1e9:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Meter:
    """How far something is, on stderr. The first process of several shows it, once it has taken two seconds.

    A meter within another one shows nothing.

    Args:
        what: in a word or two.
        total: what `advance` adds up to, in any unit; None if that is not known.
    """

    _open = 0

    def __init__(self, what: str, total: float | None) -> None:
        self.what, self.total, self.done = what, total, 0.0
        self.begin = self._last = time.monotonic()
        self._enabled = os.environ.get("RANK", "0") == "0"
        self._live = sys.stderr.isatty()
        self._bar: Bar | None = None

    def __enter__(self) -> Meter:
        self._enabled &= Meter._open == 0
        Meter._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        Meter._open -= 1
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: float = 1) -> None:
        """So much more is done."""
        self.done += amount
        now = time.monotonic()
        if not self._enabled or now - self.begin < _DELAY or now - self._last < (_REDRAW if self._live else _PAUSE):
            return
        self._last = now
        elapsed = now - self.begin
        if self._live:
            self._draw(elapsed)
        elif self.total and self.done:
            left = clock(elapsed * (self.total / self.done - 1))
            print(f"{self.what}: {self.done / self.total:.0%}, {clock(elapsed)}, ETA {left}", file=sys.stderr)
        else:
            print(f"{self.what}: {clock(elapsed)}", file=sys.stderr)

    def _draw(self, elapsed: float) -> None:
        if self._bar is None:  # imported here: most commands never get this far
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(), progress.TextColumn("ETA"), progress.TimeRemainingColumn(),
                console=Console(stderr=True, highlight=False), transient=True,
            )  # fmt: skip
            task = self._bar.add_task(self.what, total=self.total)
            self._bar.tasks[task].start_time = self._bar.get_time() - elapsed
            self._bar.start()
            atexit.register(self._bar.stop)  # gives the cursor back, whatever ends the process
        self._bar.update(self._bar.task_ids[0], completed=self.done)


def tracked(
    items: Iterable[T], what: str, total: float | None = None, size: Callable[[T], float] = lambda item: 1
) -> Iterator[T]:
    """The same items; how far they are is shown as `Meter` does.

    Args:
        items: any.
        what: in a word or two.
        total: the sum of the sizes; by default the number of items, if they tell it.
        size: how much of the total an item is, done when the next one is asked for.
    """
    with Meter(what, total or length_hint(items, 0) or None) as meter:
        for item in items:
            yield item
            meter.advance(size(item))


def quieten_bars() -> None:
    """Lets the bars of libraries (FFCV's writer, downloads) write once a minute where no terminal shows them live.

    To be called before they are imported: tqdm reads its environment then.
    """
    if not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, str(_PAUSE))
