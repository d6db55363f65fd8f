"""Plots as inline SVG: no plotting library, and colours that follow the page's light or dark theme.

The page's style sheet colours the elements by their classes (``right``, ``wrong``, ``gap``, ``s0`` ...). An XML tree
escapes all text. Hovering over a mark shows its numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .metrics import Reliability

Pair: TypeAlias = tuple[float, float]
_COLOURS = 6  # classes s0 to s5 in the style sheet; further series differ by their dashes
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_PERCENT = {0.0: "0", 0.2: "20", 0.4: "40", 0.6: "60", 0.8: "80", 1.0: "100 %"}  # ticks of an axis from 0 to 1


@dataclass(frozen=True)
class Series:
    """A curve: its points ``(x, y)``, and the number of its style (colour and dashes)."""

    name: str
    style: int
    points: Sequence[Pair]


class _Plot:
    """An SVG with a data area and linear axes. The margins are left, right, top and bottom, in pixels."""

    def __init__(self, title: str, size: Pair, x: Pair, y: Pair, margins: tuple[float, float, float, float]) -> None:
        width, height = size
        left, right, top, bottom = margins
        box = f"0 0 {width:g} {height:g}"
        self.svg = ElementTree.Element("svg", {"viewBox": box, "role": "img", "aria-label": title, "class": "plot"})
        self.x_range, self.y_range = x, y
        self.left, self.right, self.top, self.bottom = left, width - right, top, height - bottom

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def add(self, tag: str, kind: str, hover: str = "", **attributes: float | str) -> None:
        """An element of class `kind`; underscores in attribute names become dashes."""
        named = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
            for name, value in attributes.items()
        }
        element = ElementTree.SubElement(self.svg, tag, {"class": kind, **named})
        if hover:
            ElementTree.SubElement(element, "title").text = hover

    def text(self, kind: str, text: str, x: float, y: float, **attributes: str) -> None:
        self.add("text", kind, x=x, y=y, **attributes)
        self.svg[-1].text = text

    def side_label(self, text: str) -> None:
        """The name of the vertical axis."""
        x, y = 11, (self.top + self.bottom) / 2
        self.text("label middle", text, x, y, transform=f"rotate(-90 {x:g} {y:g})")

    def bar(self, kind: str, x: Pair, y: Pair, hover: str) -> None:
        """A rectangle in data coordinates, a pixel narrower than its bin on either side."""
        left, right = self.x(x[0]) + 1, self.x(x[1]) - 1
        top, bottom = self.y(max(y)), self.y(min(y))
        self.add("rect", kind, hover, x=left, y=top, width=max(right - left, 0.5), height=max(bottom - top, 0))

    def curve(self, style: int, points: str, hover: str = "") -> None:
        """A line through points in pixels; dashes keep the styles apart in a grey print."""
        dashes = _DASHES[style % len(_DASHES)]
        self.add("polyline", f"curve s{style % _COLOURS}", hover, points=points, stroke_dasharray=dashes)

    def axes(self, x_label: str, x_ticks: dict[float, str], y_ticks: dict[float, str], *, grid: bool = True) -> None:
        for value, label in y_ticks.items():
            if grid:
                self.add("line", "grid", x1=self.left, x2=self.right, y1=self.y(value), y2=self.y(value))
            self.text("tick end", label, self.left - 6, self.y(value) + 4)
        for value, label in x_ticks.items():
            self.text("tick middle", label, self.x(value), self.bottom + 16)
        self.add("line", "axis", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom)
        self.text("label middle", x_label, (self.left + self.right) / 2, self.bottom + 33)

    def render(self) -> Markup:
        # ElementTree has escaped all text and attributes. The method "html" avoids self-closing tags.
        return Markup(ElementTree.tostring(self.svg, encoding="unicode", method="html"))


IMAGES = ("confidence", "accuracy", "images")


def reliability_plot(bins: Reliability, *, small: bool = False, words: tuple[str, str, str] = IMAGES) -> Markup:
    """Accuracy by confidence and its gap to the diagonal; the large plot also shows the share of images in each bin.

    `words` are what the axes and the samples are called.
    """
    sure, exact, samples = words
    side, strip = (240, 0) if small else (400, 66)  # the strip below the bars is for the counts
    plot = _Plot("Reliability diagram", (side, side), (0, 1), (0, 1), margins=(44 if small else 56, 12, 10, 38 + strip))
    steps = {0: "0", 0.5: "50", 1: "100 %"} if small else _PERCENT
    plot.axes(sure if small else "", steps if small else {}, steps)
    plot.side_label(exact)
    for count, edges, accuracy, confidence in _used(bins):
        hover = (
            f"{sure} {edges[0]:.0%} to {edges[1]:.0%}: {count:,} {samples}, "
            f"{exact} {accuracy:.1%}, mean {sure} {confidence:.1%}"
        )
        plot.bar("right", edges, (0, min(accuracy, confidence)), hover)
        if accuracy > confidence:  # paler under the hatching, which the full colour would hide
            plot.bar("right pale", edges, (confidence, accuracy), hover)
        plot.bar("gap", edges, (accuracy, confidence), hover)
        left, right, level = plot.x(edges[0]) + 1, plot.x(edges[1]) - 1, plot.y(accuracy)
        plot.add("line", "value", hover, x1=left, x2=right, y1=level, y2=level)  # a gap may hang below the bar's top
    plot.add("line", "diagonal", x1=plot.x(0), y1=plot.y(0), x2=plot.x(1), y2=plot.y(1))
    if not small:
        total = int(bins.counts.sum())
        high = int(bins.counts.max()) / total
        plot.y_range, plot.top, plot.bottom = (0, high), plot.bottom + 20, side - 38
        plot.axes(sure, steps, {0: "0", high: f"{100 * high:.0f} %"}, grid=False)
        plot.side_label(samples)
        for count, edges, _, _ in _used(bins):
            plot.bar("neutral", edges, (0, count / total), f"{count:,} {samples} ({count / total:.1%})")
    return plot.render()


def _used(bins: Reliability) -> Iterator[tuple[int, Pair, float, float]]:
    """Count, edges, accuracy and confidence of every bin that is not empty."""
    for k in np.flatnonzero(bins.counts):
        edges = (float(bins.edges[k]), float(bins.edges[k + 1]))
        yield int(bins.counts[k]), edges, float(bins.accuracy[k]), float(bins.confidence[k])


def confidence_plot(bins: Reliability) -> Markup:
    """Confidence of the right (up) and of the wrong (down) predictions, each as a share of its own kind."""
    kinds = {"right": bins.right, "wrong": bins.counts - bins.right}
    shares = {kind: counts / max(counts.sum(), 1) for kind, counts in kinds.items()}
    y_range = (-1.05 * float(shares["wrong"].max()) or -0.01, 1.05 * float(shares["right"].max()) or 0.01)
    plot = _Plot("Confidence of right and wrong predictions", (400, 400), (0, 1), y_range, margins=(56, 12, 10, 38))
    y_ticks = {tick: f"{abs(100 * tick):g} %" if tick else "0" for tick in nice_ticks(*y_range, 6)}
    plot.axes("confidence", _PERCENT, y_ticks)
    for kind, sign in (("right", 1), ("wrong", -1)):
        for k in np.flatnonzero(kinds[kind]):
            low, high, share = float(bins.edges[k]), float(bins.edges[k + 1]), float(shares[kind][k])
            hover = f"{kinds[kind][k]:,} {kind} at {low:.0%} to {high:.0%} confidence ({share:.1%} of the {kind})"
            plot.bar(kind, (low, high), (0, sign * share), hover)
    plot.add("line", "axis", x1=plot.left, x2=plot.right, y1=plot.y(0), y2=plot.y(0))
    return plot.render()


def confusion_plot(counts: NDArray[np.int64], names: Sequence[str]) -> Markup:
    """The share of each class (row) that was taken for each (column); small matrices have the counts too."""
    classes = len(names)
    cell = max(14, min(44, 420 // classes))  # the names' lines are 14 pixels high
    short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
    edge, side = 30 + 7 * max(map(len, short)), cell * classes  # 7 pixels a character
    margins = (edge, 8, 8, edge)
    plot = _Plot("Confusion matrix", (side + edge + 8, side + edge + 8), (0, classes), (classes, 0), margins)
    plot.svg.attrib |= {"class": "plot matrix", "style": f"width: {side + edge + 8}px"}
    for k, name in enumerate(short):
        x, y = plot.x(k + 0.5) + 4, plot.y(k + 0.5) + 4
        plot.text("tick end", name, plot.left - 6, y)
        plot.text("tick end", name, x, plot.bottom + 8, transform=f"rotate(-90 {x:g} {plot.bottom + 8:g})")
    plot.add("rect", "frame", x=plot.left, y=plot.top, width=side, height=side)
    for row, column in np.argwhere(counts):
        count, images = int(counts[row, column]), int(counts[row].sum())
        kind, verb = ("right", "right") if row == column else ("wrong", f"taken for {names[column]}")
        hover = f"{names[row]}: {count:,} of {images:,} {verb} ({count / images:.1%})"
        share = 0.15 + 0.85 * count / images  # a single image can be seen too
        place = {"x": plot.x(column) + 0.5, "y": plot.y(row) + 0.5, "width": cell - 1, "height": cell - 1}
        plot.add("rect", kind, hover, **place, fill_opacity=share)
        if cell >= 26:
            ink = "inverse" if share > 0.6 else "count"
            plot.text(f"{ink} middle", f"{count}", plot.x(column + 0.5), plot.y(row + 0.5) + 4, pointer_events="none")
    plot.text("label middle", "taken for", plot.left + side / 2, plot.bottom + edge - 4)
    plot.side_label("class")
    return plot.render()


def curve_plot(title: str, series: Sequence[Series], *, percent: bool) -> Markup:
    """Curves of two or more points over epochs; series of one style are drawn alike."""
    points = [point for one in series for point in one.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    pad = (max(ys) - min(ys)) * 0.05 or 0.01
    low, high = min(ys) - pad, max(ys) + pad
    if percent:
        low, high = max(low, 0.0), min(high, 1.0)
    first, last = min(xs), max(xs)
    plot = _Plot(title, (480, 300), (first, last), (low, high), margins=(52, 16, 10, 38))
    scale, unit = (100, " %") if percent else (1, "")
    y_ticks = {tick / scale: f"{tick:g}{unit}" for tick in nice_ticks(low * scale, high * scale, 5)}
    x_ticks = {tick: f"{tick:g}" for tick in nice_ticks(first, last, 6, integer=True)}
    plot.axes("epoch", x_ticks, y_ticks)
    for one in series:
        final = f"{one.points[-1][1]:.2%}" if percent else f"{one.points[-1][1]:.4f}"
        path = " ".join(f"{plot.x(x):.2f},{plot.y(y):.2f}" for x, y in one.points)
        plot.curve(one.style, path, f"{one.name}: {final} at the end")
    return plot.render()


def key_sample(style: int) -> Markup:
    """A short piece of a curve, for the legend."""
    plot = _Plot("", (28, 10), (0, 1), (0, 1), margins=(1, 1, 0, 0))
    plot.svg.attrib |= {"class": "key", "aria-hidden": "true"}
    plot.curve(style, "1,5 27,5")
    return plot.render()


def nice_ticks(low: float, high: float, count: int, *, integer: bool = False) -> list[float]:
    """About `count`, at least 3, evenly spaced numbers within [low, high], 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    if integer:
        step = max(1.0, float(round(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
