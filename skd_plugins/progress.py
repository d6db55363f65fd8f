"""How far something is, and the time that is left: a live line on a terminal, few lines elsewhere.

`Progress` is of a training, `Meter` and `tracked` are of anything else that takes more than two seconds.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from operator import length_hint
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

T = TypeVar("T")
_DELAY = 2.0  # seconds; what takes less shows nothing
_REDRAW = 0.1  # seconds between two states of the live line
_PAUSE = 60.0  # seconds between two lines where no terminal is
_TRAINING_PAUSE = 300.0  # the same in an epoch, which ends with a line anyway


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
        self._console = Console(stderr=True, highlight=False)
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
        live = self._console.is_terminal
        if not self._enabled or now - self.begin < _DELAY or now - self._last < (_REDRAW if live else _PAUSE):
            return
        self._last = now
        elapsed = now - self.begin
        if live:
            self._draw(elapsed)
        elif self.total and self.done:
            left = clock(elapsed * (self.total / self.done - 1))
            print(f"{self.what}: {self.done / self.total:.0%}, {clock(elapsed)}, ETA {left}", file=sys.stderr)
        else:
            print(f"{self.what}: {clock(elapsed)}", file=sys.stderr)

    def _draw(self, elapsed: float) -> None:
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                TextColumn("ETA"), TimeRemainingColumn(), console=self._console, transient=True,
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


class Progress:
    """Counts steps, images and the time spent waiting for data.

    Args:
        enabled: print anything at all (the first process does).
        total: steps of the whole run.
        start: steps done before.
        name: what the line begins with.
    """

    def __init__(self, *, enabled: bool, total: int, start: int, name: str) -> None:
        self.enabled = enabled
        self.console = Console(stderr=False, highlight=False, soft_wrap=True)
        self.live = enabled and self.console.is_terminal
        self.bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(name, total=total, completed=start, text="")
        self._reset()
        self._last: dict[str, float] = {}
        self._terms: dict[str, float] = {}
        self._total, self._start, self._done = total, start, start
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def timed(self, batches: Iterator[T]) -> Generator[T, None, None]:
        """The same batches; waiting for them is measured."""
        try:
            while True:
                begin = time.perf_counter()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                self._waited += time.perf_counter() - begin
                yield batch
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def step(self, *, images: int) -> None:
        """One optimizer step is done."""
        self._images += images
        self._done += 1
        self.bar.advance(self.task)

    def validation(self, batches: Iterable[T], total: int) -> Iterator[T]:
        """The same batches, with a live line of their own."""
        task = self.bar.add_task("validation", total=total, text="")
        for batch in batches:
            yield batch
            self.bar.advance(task)
        self.bar.remove_task(task)

    def rates(self) -> dict[str, float]:
        """``images_per_second`` and ``data_wait`` (a share) since the last call."""
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        self._last = {"images_per_second": self._images / elapsed, "data_wait": self._waited / elapsed}
        self._reset()
        return dict(self._last)

    def show(self, epoch: int, terms: dict[str, float], lr: float) -> None:
        """Updates the live line."""
        self._terms = terms
        losses = " ".join(f"{key} {value:.3f}" for key, value in terms.items())
        text = (
            f"epoch {epoch + 1}  {losses}  lr {lr:.2e}  {self._last['images_per_second']:.0f} img/s  "
            f"data {self._last['data_wait']:.0%}"
        )
        self.bar.update(self.task, text=text)
        if not self.live and time.monotonic() - self._said >= _TRAINING_PAUSE:
            self.say(f"step {self._done}/{self._total}  {text}  ETA {self._left()}")

    def validated(self, epoch: int, metrics: dict[str, float]) -> None:
        """Prints the epoch's line."""
        losses = " ".join(f"{key} {value:.3f}" for key, value in self._terms.items())
        speed = f"{self._last['images_per_second']:.0f} img/s, data wait {self._last['data_wait']:.0%}"
        self.say(
            f"epoch {epoch + 1:3d}  {losses}  |  top1 {metrics['top1']:.2%}  top5 {metrics['top5']:.2%}  "
            f"nll {metrics['nll']:.3f}  |  {speed}, ETA {self._left()}"
        )
        self._reset()

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        self._said = time.monotonic()
        if self.enabled:
            self.console.print(text, markup=False)

    def _left(self) -> str:
        done = self._done - self._start
        left = (time.monotonic() - self._started) / done * (self._total - self._done) if done else float("nan")
        return clock(left)

    def _reset(self) -> None:
        self._begin, self._images, self._waited = time.perf_counter(), 0, 0.0
