"""The kinds of figures in the papers, with matplotlib: data in, a `Figure` out; `save_figure` writes it.

Colours are Okabe and Ito's and cividis, which colour-blind people can tell apart; curves, bars and points also differ
by dashes, hatches and marks, for printing in grey. No text is smaller than 8 points at the figure's own size. The same
data and the same matplotlib give the same SVG, byte by byte.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import color_sequences, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...common.files import atomic
from ...evaluation.metrics import Reliability

# Okabe and Ito 2008, the dark ones first, without yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "++")
_DASHES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_PANEL = (3.2, 2.8)  # inches
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a class may be called "$5"
    "svg.fonttype": "path",
    "svg.hashsalt": "skd_plugins",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}

Series = Mapping[str, Mapping[str, float]]  # a method to a group (a data set) to the value as shown (percent)


def _look(values: Sequence[Any], number: int) -> Any:
    return values[number % len(values)]


@rc_context(_STYLE)
def save_figure(figure: Figure, stem: str | Path) -> Path:
    """Writes ``STEM.png`` (200 dpi) and ``STEM.svg``, each whole or not at all; returns the PNG's path."""
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with atomic(Path(f"{stem}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
    return Path(f"{stem}.png")


@rc_context(_STYLE)
def bar_figure(values: Series, *, ylabel: str, errors: Series | None = None) -> Figure:
    """Grouped bars with error bars of these half-lengths: SD-Dropout Figure 3, CS-KD Figure 4(c)."""
    groups = list(next(iter(values.values())))
    figure, (axes,) = _panels(1, width=max(_PANEL[0], 1.0 + 0.32 * len(groups) * (len(values) + 1)), legend=True)
    width = 0.8 / len(values)
    for number, (name, series) in enumerate(values.items()):
        axes.bar(
            [place + (number - (len(values) - 1) / 2) * width for place in range(len(groups))],
            list(series.values()),
            width,
            yerr=list(errors[name].values()) if errors else None,
            capsize=2,
            label=name,
            facecolor=_look(COLOURS, number),
            edgecolor="white",
            hatch=_look(_HATCHES, number),
        )
    axes.set_xticks(range(len(groups)), groups, rotation=30 if max(map(len, groups)) > 8 else 0)
    axes.set(ylabel=ylabel)
    axes.grid(axis="y", color="0.9")
    _legend(figure, axes, len(values))
    return figure


@rc_context(_STYLE)
def histogram_figure(log_probs: Mapping[str, Mapping[str, NDArray[np.float64]]], samples: int) -> Figure:
    """Log-probabilities of the predicted and of the true class on common mistakes: CS-KD Figures 2, 7-10.

    `log_probs` has the values in nats by kind of class and network. The paper states no bins: here 40, from the least
    value of any network to 0.
    """
    figure, panels = _panels(2, legend=True)
    for axes, (kind, rows) in zip(panels, log_probs.items(), strict=True):
        low = min(float(row.min()) for row in rows.values())
        edges = np.linspace(min(low, -1e-12), 0.0, 41)  # a range even where all networks are certain
        for number, (name, row) in enumerate(rows.items()):
            counts, colour = np.histogram(row, edges)[0], _look(COLOURS, number)
            axes.stairs(counts, edges, fill=True, alpha=0.25, color=colour)
            axes.stairs(counts, edges, color=colour, linestyle=_look(_DASHES, number), linewidth=1.5, label=name)
        axes.set(xlabel=f"log-probability of the {kind} class (nats)", ylabel="samples")
    figure.suptitle(f"samples that all get wrong: {samples:,}", fontsize=9)
    _legend(figure, panels[0], len(rows))
    return figure


@rc_context(_STYLE)
def distribution_figure(
    probabilities: Mapping[str, NDArray[np.float64]], classes: Sequence[str], true: int, ylabel: str
) -> Figure:
    """Each network's probabilities of a sample's likeliest classes, the one at `true` marked: CS-KD Figures 1(b), 6."""
    figure, panels = _panels(len(probabilities))
    places = np.arange(len(classes))[::-1]
    for axes, (name, row) in zip(panels, probabilities.items(), strict=True):
        bars = axes.barh(places, 100 * row, color=COLOURS[0], height=0.6)
        bars[true].set(facecolor=COLOURS[1], hatch="///", edgecolor="white")
        axes.bar_label(bars, [f"{100 * value:.2f}" for value in row], padding=2, fontsize=8)
        axes.set(title=name, xlabel="softmax probability (%)", xlim=(0, 118), xticks=range(0, 101, 25))
        axes.set_yticks(places, classes if axes is panels[0] else [""] * len(classes))
    panels[0].set_ylabel(ylabel)
    return figure


@rc_context(_STYLE)
def embedding_figure(
    panels: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]], classes: Mapping[int, str]
) -> Figure:
    """Points ``[N, 2]`` with labels ``[N]``, coloured and marked by class, up to 49: CS-KD Figure 3."""
    colours: Sequence[Any] = COLOURS if len(classes) <= len(COLOURS) else color_sequences["petroff10"]
    figure, all_axes = _panels(len(panels), columns=2 if len(panels) > 3 else len(panels), legend=True)
    for axes, (title, (points, labels)) in zip(all_axes, panels.items(), strict=True):
        for number, (label, name) in enumerate(classes.items()):
            own = points[labels == label]
            mark = _look(_MARKS, number + number // len(COLOURS))
            axes.scatter(own[:, 0], own[:, 1], s=9, color=_look(colours, number), marker=mark, linewidths=0, label=name)
        axes.set(title=title, xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    _legend(figure, all_axes[0], 5)
    return figure


@rc_context(_STYLE)
def reliability_figure(panels: Sequence[Mapping[str, Reliability]]) -> Figure:
    """Accuracy over confidence, a model or two a panel, against the diagonal: CS-KD Figure 5, SD-Dropout Figure 2."""
    figure, all_axes = _panels(len(panels), columns=min(3, len(panels)), height=_PANEL[1] + 0.5)
    for axes, models in zip(all_axes, panels, strict=True):
        axes.plot([0, 100], [0, 100], color="0.4", linestyle=(0, (4, 3)), linewidth=1)
        for number, (name, bins) in enumerate(models.items()):
            colour, accuracy, edges = _look(COLOURS, number), 100 * bins.accuracy, 100 * bins.edges
            axes.stairs(np.nan_to_num(accuracy), edges, fill=True, alpha=0.2, color=colour)
            axes.stairs(np.nan_to_num(accuracy), edges, color=colour, linewidth=1)
            label = f"{name}, ECE {100 * bins.ece:.1f} %"
            axes.plot(100 * bins.confidence, accuracy, **_line(number), markersize=3.5, linewidth=1, label=label)
        axes.set(title=" and ".join(models), xlabel="confidence (%)", ylabel="accuracy (%)")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        # Below the axes, since bars can be anywhere in them.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    return figure


@rc_context(_STYLE)
def confusion_figure(panels: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> Figure:
    """Row-normalised confusion matrices of some methods side by side: CS-KD Figure 4(a, b)."""
    figure, all_axes = _panels(len(panels))
    for axes, (title, shares) in zip(all_axes, panels.items(), strict=True):
        _heat(axes, 100 * shares, names, names, limits=(0.0, 100.0), decimals=1)
        axes.set(title=f"{title} (% of the row)", xlabel="predicted", ylabel="true")
    return figure


@rc_context(_STYLE)
def grid_figure(
    values: NDArray[np.float64], rows: Sequence[object], columns: Sequence[object], *, labels: tuple[str, str],
    title: str,
) -> Figure:  # fmt: skip
    """A heat map of two hyper-parameters, rows first, NaN where nothing was run: CS-KD Table 7, SD-Dropout Table 14."""
    size = (1.2 + 0.55 * len(columns), 1.2 + 0.36 * len(rows))
    figure, (axes,) = _panels(1, width=max(size[0], _PANEL[0]), height=max(size[1], 2.0))
    _heat(axes, values, rows, columns, limits=(float(np.nanmin(values)), float(np.nanmax(values))), decimals=2)
    axes.set(title=title, xlabel=labels[1], ylabel=labels[0], aspect="auto")
    return figure


@rc_context(_STYLE)
def line_figure(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Curves over epochs, one panel for each quantity (its label with the unit): SD-Dropout Figure 4."""
    figure, all_axes = _panels(len(panels))
    for axes, (label, curves) in zip(all_axes, panels.items(), strict=True):
        for number, (name, points) in enumerate(curves.items()):
            x, y = [x for x, _ in points], [y for _, y in points]
            axes.plot(x, y, **_line(number), markersize=3.5, linewidth=1.5, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(color="0.9")
        if len(curves) > 1:
            axes.legend(frameon=False)
    return figure


def _line(number: int) -> dict[str, Any]:
    return {"color": _look(COLOURS, number), "linestyle": _look(_DASHES, number), "marker": _look(_MARKS, number)}


def _panels(
    count: int, *, columns: int | None = None, width: float | None = None, height: float = _PANEL[1],
    legend: bool = False,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with `count` axes in rows; made without pyplot, which would keep it in memory."""
    columns = columns or count
    rows = -(-count // columns)
    size = (width or columns * _PANEL[0], rows * height + (0.3 if legend else 0))
    figure = Figure(figsize=size, layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in all_axes[count:]:
        figure.delaxes(axes)
    return figure, all_axes[:count]


def _heat(
    axes: Axes, values: NDArray[np.float64], rows: Sequence[object], columns: Sequence[object], *,
    limits: tuple[float, float], decimals: int,
) -> None:  # fmt: skip
    low, high = limits
    axes.set_facecolor("0.85")  # where there is no number
    axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=max(high, low + 1e-9))
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.{decimals}f}" if np.isfinite(value) else "–"
        dark = np.isfinite(value) and value < (low + high) / 2
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, 4), frameon=False, fontsize=8)
