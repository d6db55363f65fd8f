"""Figures: the numbers that were given are the numbers drawn; legible, labelled, the same bytes each time."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from skd_plugins.evaluation import reliability
from skd_plugins.papers.measures.hierarchy import Confusion
from skd_plugins.papers.measures.mistakes import log_prob_histograms, predictive_distribution
from skd_plugins.papers.pages import figures


def logits(count: int = 400, classes: int = 6) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, classes, count)
    own = 2 * np.eye(classes)[targets]
    return {name: own + rng.normal(size=(count, classes)) * s for name, s in (("CE", 3), ("CS-KD", 1.5))}, targets


def bars() -> Figure:
    values = {"base": {"CE": 30.0, "CS-KD": 41.5}, "+SD-Dropout": {"CE": 37.9, "BYOT": 50.0}}
    return figures.bar_figure(
        values, ylabel="top-1 accuracy (%)", xlabel="method", errors={"base": {"CE": 1.0, "CS-KD": 0.5}}
    )


def histograms() -> Figure:
    return figures.histogram_figure(log_prob_histograms(*logits(), bins=12))


def distributions() -> Figure:
    rows, targets = logits()
    return figures.distribution_figure(predictive_distribution(rows, targets, 5), [f"${k} class" for k in range(6)])


def embeddings() -> Figure:
    rng = np.random.default_rng(0)
    points = {name: (rng.normal(size=(90, 2)), np.repeat(np.arange(9), 10)) for name in ("a", "b", "c", "d")}
    return figures.embedding_figure(points, {k: f"class {k}" for k in range(9)})


def reliabilities() -> Figure:
    rows, targets = logits()
    return figures.reliability_figure([{name: reliability(row, targets, 20) for name, row in rows.items()}] * 5)


def confusions() -> Figure:
    names = ["bird", "dog", "indoor"]
    return figures.confusion_figure({"CE": Confusion(names, np.array([[8, 1, 1], [2, 5, 3], [0, 0, 4]]))})


def grids() -> Figure:
    values = np.array([[21.66, 22.0, 25.5], [np.nan, 31.76, 23.25]])
    return figures.grid_figure(values, [0.1, 4], [1, 2, 20], labels=("temperature", "weight"), title="top-1 error (%)")


def lines() -> Figure:
    norms = {"forward": [(0, 1.0), (100, 2.0)], "reverse": [(0, 1.5), (100, 2.5)]}
    return figures.line_figure({"cosine similarity": {"SD-Dropout": [(0, 0.9), (100, 0.4)]}, "L1 norm": norms})


FIGURES = [bars, histograms, distributions, embeddings, reliabilities, confusions, grids, lines]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_legible_labelled_and_the_same_each_time(draw: Callable[[], Figure], tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    figure = draw()
    png = figures.save_figure(figure, tmp_path / "one")
    figures.save_figure(draw(), tmp_path / "two")
    assert dict(mpl.rcParams) == settings, "matplotlib's settings are somebody else's"
    svg = (tmp_path / "one.svg").read_bytes()
    assert svg == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in svg
    with Image.open(png) as image:
        assert image.width == pytest.approx(figure.get_size_inches()[0] * 200, abs=1)
        assert np.asarray(image.convert("L")).std() > 5, "nothing is drawn"
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 4
    assert min(text.get_fontsize() for text in texts) >= 8
    assert not any(text.get_parse_math() for text in texts)
    for text in texts:
        if text.axes is None or text in (*text.axes.get_xticklabels(), *text.axes.get_yticklabels()):
            continue  # tick labels outside the limits have text, but are not drawn
        extent = text.get_window_extent()
        assert figure.bbox.x0 - 1 <= extent.x0 <= extent.x1 <= figure.bbox.x1 + 1, text
    for number, axes in enumerate(figure.axes):
        if draw is not distributions or number == 0:
            assert axes.get_ylabel(), "the y axis has no label"
        assert axes.get_xlabel(), "the x axis has no label"


def test_bars_are_the_values_and_missing_ones_are_left_out() -> None:
    (axes,) = bars().axes
    assert [bar.get_height() for bar in axes.patches] == [30.0, 41.5, 37.9, 50.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CE", "CS-KD", "BYOT"]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert [round(centre) for centre in centres] == [0, 1, 0, 2]
    assert len({bar.get_hatch() for bar in axes.patches}) == 2, "the series differ without colour too"


def test_histograms_are_the_counts() -> None:
    data = log_prob_histograms(*logits(), bins=12)
    for axes, counts in zip(histograms().axes, (data.predicted, data.true), strict=True):
        drawn = [np.asarray(patch.get_data().values) for patch in axes.patches]
        assert [row.tolist() for row in drawn[1::2]] == [row.tolist() for row in counts.values()]


def test_distribution_marks_the_true_class() -> None:
    rows, targets = logits()
    data = predictive_distribution(rows, targets, 5)
    figure = distributions()
    for axes, row in zip(figure.axes, data.probabilities.values(), strict=True):
        assert [bar.get_width() for bar in axes.patches] == pytest.approx((100 * row).tolist())
        hatched = [k for bar, k in zip(axes.patches, data.classes.tolist(), strict=True) if bar.get_hatch()]
        assert hatched == [data.target]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"${k} class (true)" if k == data.target else f"${k} class" for k in data.classes]


def test_reliability_panels_have_the_accuracies() -> None:
    rows, targets = logits()
    figure = reliabilities()
    assert len(figure.axes) == 5
    for axes in figure.axes:
        for curve, (name, row) in zip(axes.get_lines()[1:], rows.items(), strict=True):
            data = reliability(row, targets, 20)
            np.testing.assert_array_equal(curve.get_ydata(), 100 * data.accuracy)
            assert curve.get_label() == f"{name}, ECE {100 * data.ece:.1f} %"


def test_matrices_show_their_numbers() -> None:
    (axes,) = confusions().axes
    assert [text.get_text() for text in axes.texts] == [
        "80.0", "10.0", "10.0", "20.0", "50.0", "30.0", "0.0", "0.0", "100.0",
    ]  # fmt: skip
    (axes,) = grids().axes
    assert [text.get_text() for text in axes.texts] == ["21.66", "22.00", "25.50", "–", "31.76", "23.25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "4"]


def test_embedding_draws_every_point_of_the_classes_to_show() -> None:
    figure = embeddings()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert sum(len(points.get_offsets()) for points in axes.collections) == 90
        looks = [
            (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes()) for points in axes.collections
        ]
        assert len(set(looks)) == 9, "classes with the same colour have another mark"
