"""Figures: from predictions to the numbers drawn; legible, labelled, the same bytes each time."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import Predictions, recall_at_1, reliability
from skd_plugins.papers.pages import figures
from skd_plugins.papers.pages.figure_data import FIGURES, Fact, Shown
from skd_plugins.papers.runs.scores import PREDICTIONS

METHODS = ("CE", "CE+SD-Dropout", "CS-KD", "CS-KD+SD-Dropout")
NAMES = [f"${k} class" for k in range(10)]
GROUPS = ["bird", "dog", "bird", "indoor", "dog", "bird", "bird", "dog", "indoor", "bird"]
POINTS = [{"epoch": 0, "cosine": 0.9, "l1_forward": 1.0, "l1_reverse": 1.5},
          {"epoch": 100, "cosine": None, "l1_forward": 2.0, "l1_reverse": 2.5}]  # fmt: skip


def show(folder: Path, networks: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Shown]:
    """Networks with these logits and targets, and with features that keep the classes apart, as jobs leave them."""
    (folder / "hierarchy.json").write_text(json.dumps(dict(zip(NAMES, GROUPS, strict=True))))
    shown = []
    for number, (method, (logits, targets)) in enumerate(networks.items()):
        features = np.random.default_rng(number).normal(size=(len(targets), 16)) + 8 * np.eye(10, 16)[targets]
        parts = map(torch.from_numpy, (logits, targets, features, np.arange(len(targets))))
        Predictions(*parts).save(folder / str(number) / PREDICTIONS)
        fgsm = [{"top1_legacy": 0.3 + 0.1 * number}, {"top1_legacy": 0.4 + 0.1 * number}]
        clean = {"classes": NAMES, "recall_at_1": 0.5}
        values = {"clean": [clean], "fgsm": fgsm, "gradients": [{"curves": POINTS}]}
        shown.append(Shown(method=method, folder=folder / str(number), data=folder, values=values))
    return shown


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(10), 14)
    return {
        method: (2 * np.eye(10)[targets] + rng.normal(size=(140, 10)) * scale, targets)
        for method, scale in zip(METHODS, (3, 2, 1.5, 1), strict=True)
    }


@pytest.fixture(scope="module")
def shown(networks: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> list[Shown]:
    return show(tmp_path_factory.mktemp("jobs"), networks)


def grid() -> Figure:
    values = np.array([[21.66, 22.0, 25.5], [np.nan, 31.76, 23.25]])
    return figures.grid_figure(values, [0.1, 4], [1, 2, 20], labels=("temperature", "weight"), title="top-1 error (%)")


def test_every_figure_is_legible_labelled_and_the_same_each_time(shown: list[Shown], tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    first, second = ({"grid": grid()} | {
        f"{name}{suffix}": figure for name, draw in FIGURES.items() for suffix, figure in draw(shown)[0].items()
    } for _ in range(2))  # fmt: skip
    assert len(first) == 11
    for name, figure in first.items():
        png = figures.save_figure(figure, tmp_path / f"{name}-one")
        figures.save_figure(second[name], tmp_path / f"{name}-two")
        svg = png.with_suffix(".svg").read_bytes()
        assert svg == (tmp_path / f"{name}-two.svg").read_bytes()
        assert b"<dc:date>" not in svg
        with Image.open(png) as image:
            assert image.width == pytest.approx(figure.get_size_inches()[0] * 200, abs=1)
            assert np.asarray(image.convert("L")).std() > 5, "nothing is drawn"
        check_texts(figure)
    assert dict(mpl.rcParams) == settings, "matplotlib's settings are somebody else's"


def check_texts(figure: Figure) -> None:
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 4
    assert min(text.get_fontsize() for text in texts) >= 8
    assert not any(text.get_parse_math() for text in texts)
    for text in texts:
        if text.axes is None or text in (*text.axes.get_xticklabels(), *text.axes.get_yticklabels()):
            continue  # tick labels outside the limits have text, but are not drawn
        extent = text.get_window_extent()
        assert figure.bbox.x0 - 1 <= extent.x0 <= extent.x1 <= figure.bbox.x1 + 1, text
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert all(labels) or (labels[0].startswith("class (sample") and not any(labels[1:])), "panels share their classes"
    assert all(axes.get_xlabel() or len(axes.get_xticklabels()) for axes in figure.axes)


def mistakes(networks: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[int]:
    return [i for i in range(140) if all(rows[i].argmax() != targets[i] for rows, targets in networks.values())]


def test_histograms_count_log_probabilities_of_what_all_get_wrong(
    shown: list[Shown], networks: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    drawn, facts = FIGURES["histograms"](shown)
    wrong = mistakes(networks)
    assert 0 < len(wrong) < 140
    assert facts[0] == ("images that all get wrong", f"{len(wrong)}")
    for axes, kind in zip(drawn[""].axes, ("predicted", "true"), strict=True):
        lowest = []
        for patch, (method, (logits, targets)) in zip(axes.patches[1::2], networks.items(), strict=True):
            log_softmax = torch.from_numpy(logits[wrong]).log_softmax(1).numpy()
            values = log_softmax.max(1) if kind == "predicted" else log_softmax[np.arange(len(wrong)), targets[wrong]]
            counts, edges = patch.get_data().values, patch.get_data().edges
            expected = [sum(edges[k] - 1e-12 <= v < edges[k + 1] - 1e-12 for v in values) for k in range(40)]
            assert (counts.tolist(), counts.sum(), edges[-1]) == (expected, len(wrong), 0)
            assert Fact(f"{method}: mean log-probability of the {kind} class", f"{values.mean():.3f} nats") in facts
            lowest.append(values.min())
        assert edges[0] == pytest.approx(min(lowest))


def test_histograms_of_certain_mistakes_have_a_range_and_without_mistakes_there_are_none(tmp_path: Path) -> None:
    certain = 2000.0 * np.eye(10)[[0]]
    drawn, _ = FIGURES["histograms"](show(tmp_path, {"a": (certain, np.array([1]))}))
    assert [axes.patches[1].get_data().values.nonzero()[0].tolist() for axes in drawn[""].axes] == [[39], [0]]
    with pytest.raises(SkdError, match="no sample that all of a get wrong"):
        FIGURES["histograms"](show(tmp_path, {"a": (certain, np.array([0]))}))


def test_distributions_mark_the_true_class(
    shown: list[Shown], networks: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    drawn, facts = FIGURES["distributions"](shown)
    probabilities = {name: torch.from_numpy(rows).softmax(1).numpy() for name, (rows, _) in networks.items()}
    mean = np.mean(list(probabilities.values()), axis=0)
    sure = np.mean([rows.max(1) for rows in probabilities.values()], axis=0)
    chosen = sorted(mistakes(networks), key=lambda i: -sure[i])[:2]
    for sample, figure in zip(chosen, drawn.values(), strict=True):
        true = sample // 14
        classes = sorted(range(10), key=lambda k: -mean[sample, k])[:5]
        classes += [] if true in classes else [true]
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == [NAMES[k] + (" (true)" if k == true else "") for k in classes]
        for axes, (name, rows) in zip(figure.axes, probabilities.items(), strict=True):
            assert [bar.get_width() for bar in axes.patches] == pytest.approx((100 * rows[sample, classes]).tolist())
            assert [k for bar, k in zip(axes.patches, classes, strict=True) if bar.get_hatch()] == [true]
            fact = f"image {sample}: {name}, probability of the true class", f"{100 * rows[sample, true]:.2f} %"
            assert fact in facts


def test_hierarchies_count_superclasses(shown: list[Shown], networks: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    drawn, facts = FIGURES["hierarchy"](shown)
    bars = iter(drawn["-errors"].axes[0].patches)
    for axes, (method, (logits, targets)) in zip(drawn["-confusion"].axes, networks.items(), strict=True):
        texts, predicted = iter(axes.texts), logits.argmax(1)
        for name in ("bird", "dog", "indoor"):  # in order of appearance
            own = [i for i in range(140) if GROUPS[targets[i]] == name]
            shares = [np.mean([GROUPS[predicted[i]] == other for i in own]) for other in ("bird", "dog", "indoor")]
            assert [next(texts).get_text() for _ in shares] == [f"{100 * share:.1f}" for share in shares]
            error = 100 * np.mean([predicted[i] != targets[i] for i in own])
            assert next(bars).get_height() == pytest.approx(error)
            share = f"{100 * shares[('bird', 'dog', 'indoor').index(name)]:.1f} %"
            assert (f"{method}: {name} taken for {name}", share) in facts
            assert (f"{method}: top-1 error of the labels of {name}", f"{error:.2f} %") in facts


def test_tsne_keeps_neighbours_and_draws_every_point_with_a_mark_of_its_class(shown: list[Shown]) -> None:
    drawn, facts = FIGURES["tsne"](shown)
    assert facts[0] == ("CE: R@1 of the features, all classes", "50.00 %")
    assert len(drawn[""].axes) == 4
    for axes in drawn[""].axes:
        points = [group.get_offsets() for group in axes.collections]
        assert [len(group) for group in points] == [14] * 10
        assert recall_at_1(np.concatenate(points), np.repeat(np.arange(10), 14)) > 0.95
        looks = {(tuple(g.get_facecolor()[0]), g.get_paths()[0].vertices.tobytes()) for g in axes.collections}
        assert len(looks) == 10, "classes with the same colour have another mark"


@pytest.mark.parametrize(("name", "bins", "pairs"), [
    ("reliability_against", 20, [(0, 3), (1, 3), (2, 3)]), ("reliability_pairs", 10, [(0, 1), (2, 3)]),
])  # fmt: skip
def test_reliability_panels_have_the_accuracies(
    name: str, bins: int, pairs: list[tuple[int, int]], shown: list[Shown],
    networks: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:  # fmt: skip
    drawn, facts = FIGURES[name](shown)
    for axes, pair in zip(drawn[""].axes, pairs, strict=True):
        for curve, method in zip(axes.get_lines()[1:], (METHODS[k] for k in pair), strict=True):
            data = reliability(*networks[method], bins)
            np.testing.assert_array_equal(curve.get_ydata(), 100 * data.accuracy)
            assert curve.get_label() == f"{method}, ECE {100 * data.ece:.1f} %"
            assert (f"{method}: ECE, {bins} bins", f"{100 * data.ece:.2f} %") in facts


def test_bars_are_the_values(shown: list[Shown]) -> None:
    drawn, facts = FIGURES["fgsm_bars"](shown)
    (axes,) = drawn[""].axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([35, 55, 45, 65])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CE", "CS-KD"]
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in axes.patches] == [0, 1, 0, 1]
    assert len({bar.get_hatch() for bar in axes.patches}) == 2, "the series differ without colour too"
    texts = [f"{accuracy}.0 ± 7.1 %" for accuracy in (35, 45, 55, 65)]
    assert facts == [(f"{method}: accuracy under FGSM", text) for method, text in zip(METHODS, texts, strict=True)]


def test_curves_leave_out_what_is_not_finite(shown: list[Shown]) -> None:
    drawn, facts = FIGURES["gradient_curves"](shown)
    curves = [[line.get_xydata().tolist() for line in axes.get_lines()] for axes in drawn[""].axes]
    assert curves == [[[[0, 0.9]]], [[[0, 1], [100, 2]], [[0, 1.5], [100, 2.5]]]]
    assert facts[1] == ("epoch 100", "cosine –, L1 norm forward 2, reverse 2.5")


def test_heat_maps_show_their_numbers() -> None:
    (axes,) = grid().axes
    assert [text.get_text() for text in axes.texts] == ["21.66", "22.00", "25.50", "–", "31.76", "23.25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "4"]
