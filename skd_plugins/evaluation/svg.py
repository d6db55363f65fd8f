"""Plots as inline SVG: no plotting library, and colours that follow the page's light or dark theme.

Elements carry classes (``right``, ``wrong``, ``gap``, ``s0`` ...) that the page's style sheet colours. Text goes
through an XML tree, so it is escaped whatever it says. Hovering over a mark shows its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .metrics import Reliability

SERIES_COLOURS = 6  # classes s0 to s5 in the style sheet; further series differ by their dashes
_DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Series:
    """A curve: points ``(x, y)`` in the style (colour and dashes) number `style`."""

    name: str
    style: int
    points: Sequence[tuple[float, float]]


class _Plot:
    """An SVG of a given size with a data area and linear axes."""

    def __init__(
        self,
        title: str,
        size: tuple[float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        left: float = 44,
        right: float = 12,
        top: float = 10,
        bottom: float = 38,
    ) -> None:
        width, height = size
        self.svg = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": "plot"}
        )
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
        named = {name.replace("_", "-"): _number(value) for name, value in attributes.items()}
        element = ElementTree.SubElement(self.svg, tag, {"class": kind, **named})
        if hover:
            ElementTree.SubElement(element, "title").text = hover

    def text(self, kind: str, text: str, x: float, y: float, rotate: float = 0) -> None:
        place = {"x": _number(x), "y": _number(y), "class": kind}
        if rotate:
            place["transform"] = f"rotate({rotate:g} {x:g} {y:g})"
        ElementTree.SubElement(self.svg, "text", place).text = text

    def bar(self, kind: str, x: tuple[float, float], y: tuple[float, float], hover: str, gap: float = 1) -> None:
        """A rectangle in data coordinates, `gap` pixels narrower than its bin on either side."""
        left, right = self.x(x[0]) + gap, self.x(x[1]) - gap
        top, bottom = self.y(max(y)), self.y(min(y))
        self.add("rect", kind, hover, x=left, y=top, width=max(right - left, 0.5), height=max(bottom - top, 0))

    def axes(
        self, x_label: str, y_label: str, x_ticks: dict[float, str], y_ticks: dict[float, str], *, grid: bool = True
    ) -> None:
        for value, label in y_ticks.items():
            if grid:
                self.add("line", "grid", x1=self.left, x2=self.right, y1=self.y(value), y2=self.y(value))
            self.text("tick end", label, self.left - 6, self.y(value) + 4)
        for value, label in x_ticks.items():
            self.text("tick middle", label, self.x(value), self.bottom + 16)
        self.add("line", "axis", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom)
        self.text("label middle", x_label, (self.left + self.right) / 2, self.bottom + 33)
        if y_label:
            self.text("label middle", y_label, 11, (self.top + self.bottom) / 2, rotate=-90)

    def render(self) -> Markup:
        # Safe as markup: ElementTree escaped every text and attribute. "html" leaves no self-closed tags to a parser.
        return Markup(ElementTree.tostring(self.svg, encoding="unicode", method="html"))


def reliability_plot(bins: Reliability, *, small: bool = False) -> Markup:
    """Accuracy per bin of confidence, the gap to the diagonal's promise, and how many samples each bin has."""
    size = (240.0, 240.0) if small else (400.0, 400.0)
    strip = 0.0 if small else 66.0  # room below the bars for the counts
    plot = _Plot("Reliability diagram", size, (0, 1), (0, 1), left=44 if small else 56, bottom=38 + strip)
    steps = {0: "0", 0.5: "50", 1: "100 %"} if small else {v / 100: f"{v}" for v in (0, 20, 40, 60, 80)} | {1: "100 %"}
    if small:
        plot.axes("confidence", "accuracy", steps, steps)
    else:  # the strip of counts lies between the bars and the axis labels they share
        plot.axes("", "accuracy", {}, steps)
    for k, count in enumerate(bins.counts):
        if not count:
            continue
        edges = (float(bins.edges[k]), float(bins.edges[k + 1]))
        accuracy, confidence = float(bins.accuracy[k]), float(bins.confidence[k])
        hover = (
            f"confidence {edges[0]:.0%} to {edges[1]:.0%}: {count:,} images, "
            f"accuracy {accuracy:.1%}, mean confidence {confidence:.1%}"
        )
        plot.bar("right", edges, (0, min(accuracy, confidence)), hover)
        if accuracy > confidence:  # paler under the hatching, which would be lost on the full colour
            plot.bar("right pale", edges, (confidence, accuracy), hover)
        plot.bar("gap", edges, (accuracy, confidence), hover)
        left, right, level = plot.x(edges[0]) + 1, plot.x(edges[1]) - 1, plot.y(accuracy)
        plot.add("line", "value", hover, x1=left, x2=right, y1=level, y2=level)  # a gap may hang below the bar's top
    plot.add("line", "diagonal", x1=plot.x(0), y1=plot.y(0), x2=plot.x(1), y2=plot.y(1))
    if not small:
        _count_strip(plot, bins, top=plot.bottom + 20, bottom=size[1] - 38, steps=steps)
    return plot.render()


def _count_strip(plot: _Plot, bins: Reliability, *, top: float, bottom: float, steps: dict[float, str]) -> None:
    """Bars of the share of all images, below the diagram and on the same axis."""
    share = bins.counts / max(bins.counts.sum(), 1)
    plot.y_range, plot.top, plot.bottom = (0, float(share.max()) or 1.0), top, bottom
    plot.axes("confidence", "", steps, {0: "0", float(share.max()): f"{100 * share.max():.0f} %"}, grid=False)
    plot.text("label middle", "images", 11, (top + bottom) / 2, rotate=-90)
    for k, count in enumerate(bins.counts):
        edges = (float(bins.edges[k]), float(bins.edges[k + 1]))
        if count:
            plot.bar("neutral", edges, (0, float(share[k])), f"{count:,} images ({share[k]:.1%})")


def confidence_plot(edges: NDArray[np.float64], right: NDArray[np.int64], wrong: NDArray[np.int64]) -> Markup:
    """How confident the right (up) and the wrong (down) predictions are, each as a share of its own kind.

    Args:
        edges: ``[bins + 1]``.
        right: ``[bins]`` counts of right predictions.
        wrong: ``[bins]`` counts of wrong ones.
    """
    shares = [counts / max(counts.sum(), 1) for counts in (right, wrong)]
    high, low = (float(share.max()) for share in shares)
    y_range = (-1.05 * low or -0.01, 1.05 * high or 0.01)
    plot = _Plot("Confidence of right and wrong predictions", (400, 400), (0, 1), y_range, left=56)
    y_ticks = {tick: f"{abs(100 * tick):g} %" if tick else "0" for tick in nice_ticks(*y_range, 6)}
    x_ticks = {v / 100: f"{v}" for v in (0, 20, 40, 60, 80)} | {1.0: "100 %"}
    plot.axes("confidence", "", x_ticks, y_ticks)
    for kind, sign, counts, share in (("right", 1, right, shares[0]), ("wrong", -1, wrong, shares[1])):
        for k, count in enumerate(counts):
            if count:
                edge = (float(edges[k]), float(edges[k + 1]))
                hover = f"{count:,} {kind} at {edge[0]:.0%} to {edge[1]:.0%} confidence ({share[k]:.1%} of the {kind})"
                plot.bar(kind, edge, (0, sign * float(share[k])), hover)
    plot.add("line", "axis", x1=plot.left, x2=plot.right, y1=plot.y(0), y2=plot.y(0))
    return plot.render()


def curve_plot(title: str, series: Sequence[Series], *, percent: bool) -> Markup:
    """Curves over epochs; series of one style belong together and are drawn alike."""
    points = [point for one in series for point in one.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    pad = (max(ys) - min(ys)) * 0.05 or 0.01
    low, high = min(ys) - pad, max(ys) + pad
    if percent:
        low, high = max(low, 0.0), min(high, 1.0)
    last = max(xs) if max(xs) > min(xs) else min(xs) + 1
    plot = _Plot(title, (480, 300), (min(xs), last), (low, high), left=52, right=16)
    scale, unit = (100, " %") if percent else (1, "")
    y_ticks = {tick / scale: f"{tick:g}{unit}" for tick in nice_ticks(low * scale, high * scale, 5)}
    x_ticks = {tick: f"{tick:g}" for tick in nice_ticks(min(xs), last, 6, integer=True)}
    plot.axes("epoch", "", x_ticks, y_ticks)
    for one in series:
        path = " ".join(f"{plot.x(x):.2f},{plot.y(y):.2f}" for x, y in one.points)
        final = f"{one.points[-1][1]:.2%}" if percent else f"{one.points[-1][1]:.4f}"
        if len(one.points) == 1:  # a line of one point is not seen
            (x, y), style = one.points[0], one.style % SERIES_COLOURS
            plot.add("circle", f"dot s{style}", f"{one.name}: {final}", cx=plot.x(x), cy=plot.y(y), r=2)
            continue
        plot.add(
            "polyline",
            f"curve s{one.style % SERIES_COLOURS}",
            f"{one.name}: {final} at the end",
            points=path,
            stroke_dasharray=dashes(one.style) or "none",
        )
    return plot.render()


def dashes(style: int) -> str:
    """The dash pattern of a style; styles that are told apart by colour alone would be lost in a grey print."""
    return _DASHES[style % len(_DASHES)]


def key_sample(style: int) -> Markup:
    """A short piece of a curve's line, for the legend."""
    plot = _Plot("", (28, 10), (0, 1), (0, 1), left=1, right=1, top=0, bottom=0)
    plot.svg.set("class", "key")
    plot.svg.set("aria-hidden", "true")
    plot.add(
        "polyline",
        f"curve s{style % SERIES_COLOURS}",
        points="1,5 27,5",
        stroke_dasharray=dashes(style) or "none",
    )
    return plot.render()


def nice_ticks(low: float, high: float, count: int, *, integer: bool = False) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    if integer:
        step = max(1.0, float(round(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
