"""Progress of long tasks on stderr: a live line on a terminal, a line a minute elsewhere."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
_DELAY = 2.0  # seconds; shorter tasks show nothing
_REDRAW = 0.1  # seconds between two updates of the live line
_PAUSE = 60.0  # seconds between two lines without a terminal
_open = 0  # tasks that are shown, one inside another


def clock(seconds: float) -> str:
    """``1:02:03``, or a dash if the time is not known."""
    if not 0 <= seconds < 1e9:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def tracked(
    items: Iterable[T], what: str, total: float | None = None, done: Callable[[], float] | None = None
) -> Iterator[T]:
    """Passes the items on and shows the progress in the first process; inside another one it stays silent.

    Args:
        what: the task in a word or two.
        total: the number of items, if they do not tell it; with `done` in any unit.
        done: how much of `total` is done; by default items are counted.
    """
    global _open
    total = total or length_hint(items, 0) or None
    columns = BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
    console = Console(stderr=True, highlight=False)
    bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    task, live = bar.add_task(what, total=total), console.is_interactive
    begin = time.monotonic()
    silent = _open or os.environ.get("RANK", "0") != "0"
    due = float("inf") if silent else begin + (_DELAY if live else _PAUSE)
    _open += 1
    try:
        for count, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now < due:
                continue
            due = now + (_REDRAW if live else _PAUSE)
            amount, elapsed = done() if done else count, now - begin
            if live:
                bar.update(task, completed=amount)
                if not bar.live.is_started:
                    bar.start()
                    atexit.register(bar.stop)  # gives the cursor back even if an error leaves this unfinished
            elif total and amount:
                left = clock(elapsed * (total / amount - 1))
                print(f"{what}: {amount / total:.0%}, {clock(elapsed)}, ETA {left}", file=sys.stderr)
            else:
                print(f"{what}: {clock(elapsed)}", file=sys.stderr)
    finally:
        _open -= 1
        if live:
            bar.stop()


def quieten_bars() -> None:
    """Without a terminal, makes other libraries' tqdm bars write once a minute; call it before tqdm is imported."""
    if not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, str(_PAUSE))
