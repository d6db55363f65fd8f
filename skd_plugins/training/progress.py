"""Training progress and remaining time: a live line on a terminal, few lines elsewhere."""

import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from rich import progress as rich
from rich.console import Console, RenderableType
from rich.text import Text

from ..common.meter import clock

T = TypeVar("T")
_PAUSE = 300.0  # seconds between two lines within an epoch, without a terminal


class _Bar(rich.Progress):
    """A bar, and the latest numbers in a line of their own: beside it, they left no room for it and the clock."""

    text = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The two lines."""
        yield from super().get_renderables()
        yield Text(self.text, no_wrap=True, overflow="ellipsis")


class Progress:
    """Shows steps, losses, speed and the time spent waiting for data; prints only if `enabled` (the first process)."""

    def __init__(self, *, enabled: bool, total: int, start: int, name: str) -> None:
        self.enabled = enabled
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = enabled and self.console.is_terminal
        columns = (
            rich.TextColumn("[bold]{task.description}"), rich.BarColumn(None), rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(), "ETA", rich.TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = _Bar(*columns, console=self.console, disable=not self.live)
        self.task = self.bar.add_task(name, total=total, completed=start)
        self._reset()
        self._last: dict[str, float] = {}  # rates
        self._terms: dict[str, float] = {}
        self._total, self._start, self._done = total, start, start
        self._started = self._said = time.monotonic()

    def timed(self, batches: Iterator[T]) -> Generator[T, None, None]:
        """The same batches, with the time spent waiting for them measured."""
        try:
            begin = time.perf_counter()
            for batch in batches:
                self._waited += time.perf_counter() - begin
                yield batch
                begin = time.perf_counter()
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def step(self, *, images: int) -> None:
        """Counts one optimizer step."""
        self._images += images
        self._done += 1
        self.bar.advance(self.task)

    def validation(self, batches: Iterable[T], total: int) -> Iterator[T]:
        """The same batches, with a live line."""
        task = self.bar.add_task("validation", total=total)
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

    def due(self) -> bool:
        """Whether the live line is still empty, or without a terminal nothing was printed for minutes."""
        return not self._last or (not self.live and time.monotonic() - self._said >= _PAUSE)

    def show(self, epoch: int, terms: dict[str, float], lr: float) -> None:
        """Updates the live line."""
        self._terms = terms
        if not self._last:
            self.rates()
        speed, wait = self._last.values()
        text = f"epoch {epoch + 1}  {_losses(terms)}  lr {lr:.2e}  {speed:.0f} img/s  data {wait:.0%}"
        self.bar.text = text
        if not self.live and time.monotonic() - self._said >= _PAUSE:
            self.say(f"step {self._done}/{self._total}  {text}  ETA {self._left()}")

    def validated(self, epoch: int, metrics: dict[str, float]) -> None:
        """Prints the epoch's line."""
        speed, wait = self._last.values()
        self.say(
            f"epoch {epoch + 1:3d}  {_losses(self._terms)}  |  top1 {metrics['top1']:.2%}  top5 {metrics['top5']:.2%}  "
            f"nll {metrics['nll']:.3f}  |  {speed:.0f} img/s, data wait {wait:.0%}, ETA {self._left()}"
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


def _losses(terms: dict[str, float]) -> str:
    return " ".join(f"{key} {value:.3f}" for key, value in terms.items())
