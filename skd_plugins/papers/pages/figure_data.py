"""Each figure of the papers: the numbers that it shows, taken from the measurements, and how they are drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ...data.sources import read_hierarchy
from ...evaluation.metrics import reliability, score
from ...evaluation.predictions import Predictions
from ..measures import embedding
from ..measures.hierarchy import hierarchy_confusion, top1_by_group
from ..measures.mistakes import common_mistakes, log_prob_histograms, predictive_distribution
from ..runs.scores import PREDICTIONS
from . import figures

_EXAMPLES, _CLASSES = 2, 10  # images of a predictive distribution; classes of a t-SNE


class Fact(NamedTuple):
    """A number of a figure: what it is, and the number with its unit."""

    what: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A method in a figure.

    Args:
        folder: of its job of seed 0.
        values: evaluation to its values, one for each seed.
    """

    method: str
    folder: Path
    data: Path
    values: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def predictions(self) -> Predictions:
        """Of seed 0."""
        return Predictions.load(self.folder / PREDICTIONS)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, or their numbers if the data have no names."""
        names = self.values["clean"][0]["classes"]
        return list(names or map(str, range(self.predictions.logits.shape[1])))


FigureData = tuple[dict[str, Figure], list[Fact]]  # suffix of a picture's file to the figure; the numbers in them


def distributions(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figures 1(b) and 6: the common mistakes with the largest mean confidence."""
    logits, targets = _logits(shown)
    samples = common_mistakes(logits, targets)
    confidence = np.mean([score(rows, targets).confidence for rows in logits.values()], axis=0)
    chosen = samples[np.argsort(-confidence[samples], kind="stable")][:_EXAMPLES].tolist()
    drawn, facts = {}, [Fact("images that all get wrong", f"{len(samples):,}")]
    for number, sample in enumerate(chosen, 1):
        distribution = predictive_distribution(logits, targets, sample)
        drawn[f"-{number}"] = figures.distribution_figure(distribution, shown[0].classes)
        place = distribution.classes.tolist().index(distribution.target)
        facts += [
            Fact(f"image {sample}: {method}, probability of the true class", f"{100 * row[place]:.2f} %")
            for method, row in distribution.probabilities.items()
        ]
    return drawn, facts


def histograms(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figures 2 and 7 to 10."""
    logits, targets = _logits(shown)
    found = log_prob_histograms(logits, targets)
    facts = [Fact("images that all get wrong", f"{len(found.samples):,}")]
    for method, rows in logits.items():
        scores = score(rows[found.samples], targets[found.samples])
        predicted = np.log(scores.confidence).mean()
        facts.append(Fact(f"{method}: mean log-probability of the predicted class", f"{predicted:.3f} nats"))
        facts.append(Fact(f"{method}: mean log-probability of the true class", f"{scores.log_prob.mean():.3f} nats"))
    return {"": figures.histogram_figure(found)}, facts


def tsne(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figure 3."""
    panels, facts = {}, []
    for one in shown:
        predictions = one.predictions
        targets = predictions.targets.numpy()
        keep = targets < _CLASSES
        panels[one.method] = (embedding.tsne(predictions.features.numpy()[keep]), targets[keep])
        recall = one.values["clean"][0]["recall_at_1"]
        facts.append(Fact(f"{one.method}: R@1 of the features, all classes", f"{100 * recall:.2f} %"))
    return {"": figures.embedding_figure(panels, dict(enumerate(shown[0].classes[:_CLASSES])))}, facts


def hierarchy(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figure 4."""
    table = read_hierarchy(shown[0].data)
    groups = [table[name] for name in shown[0].classes]
    logits, targets = _logits(shown)
    confusions, errors, facts = {}, {}, []
    for method, rows in logits.items():
        confusion = confusions[method] = hierarchy_confusion(rows, targets, groups)
        errors[method] = {name: 100 * (1 - top1) for name, top1 in top1_by_group(rows, targets, groups).items()}
        for name, share in zip(confusion.names, np.diag(confusion.normalised), strict=True):
            facts.append(Fact(f"{method}: {name} taken for {name}", f"{100 * share:.1f} %"))
            facts.append(Fact(f"{method}: top-1 error of the labels of {name}", f"{errors[method][name]:.2f} %"))
    bars = figures.bar_figure(errors, ylabel="top-1 error of the fine labels (%)")
    return {"-confusion": figures.confusion_figure(confusions), "-errors": bars}, facts


def reliability_against(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figure 5: each baseline beside the last method."""
    return _reliability([(one, shown[-1]) for one in shown[:-1]], bins=20)


def reliability_pairs(shown: Sequence[Shown]) -> FigureData:
    """SD-Dropout, Figure 2: each method without and with SD-Dropout."""
    return _reliability(list(zip(shown[::2], shown[1::2], strict=True)), bins=10)


def _reliability(pairs: Sequence[tuple[Shown, Shown]], bins: int) -> FigureData:
    found = {
        one.method: reliability(one.predictions.logits, one.predictions.targets, bins) for pair in pairs for one in pair
    }
    panels = [{one.method: found[one.method] for one in pair} for pair in pairs]
    facts = [Fact(f"{method}: ECE, {bins} bins", f"{100 * one.ece:.2f} %") for method, one in found.items()]
    return {"": figures.reliability_figure(panels)}, facts


def fgsm_bars(shown: Sequence[Shown]) -> FigureData:
    """SD-Dropout, Figure 3."""
    values: dict[str, dict[str, float]] = {"without": {}, "with SD-Dropout": {}}
    spreads: dict[str, dict[str, float]] = {"without": {}, "with SD-Dropout": {}}
    facts = []
    for pair in zip(shown[::2], shown[1::2], strict=True):
        for series, one in zip(values, pair, strict=True):
            accuracies = [100 * found["top1_legacy"] for found in one.values["fgsm"]]
            mean = values[series][pair[0].method] = fmean(accuracies)
            text = f"{mean:.1f}"
            if len(accuracies) > 1:
                spread = spreads[series][pair[0].method] = stdev(accuracies)
                text += f" ± {spread:.1f}"
            facts.append(Fact(f"{one.method}: accuracy under FGSM", f"{text} %"))
    errors = spreads if any(spreads.values()) else None
    return {"": figures.bar_figure(values, ylabel="accuracy under FGSM (%)", errors=errors)}, facts


def gradient_curves(shown: Sequence[Shown]) -> FigureData:
    """SD-Dropout, Figure 4."""
    lines: dict[str, list[tuple[float, float]]] = {}
    facts = []
    for point in shown[0].values["gradients"][0]["curves"]:
        texts = {}
        for key in ("cosine", "l1_forward", "l1_reverse"):
            value = point[key]  # null is a value that is not finite
            texts[key] = "–" if value is None else f"{value:.4g}"
            lines.setdefault(key, []).extend([] if value is None else [(point["epoch"], value)])
        text = "cosine {cosine}, L1 norm forward {l1_forward}, reverse {l1_reverse}".format(**texts)
        facts.append(Fact(f"epoch {point['epoch']}", text))
    panels = {
        "cosine (no unit)": {"forward and reverse": lines["cosine"]},
        "L1 norm (no unit)": {"forward": lines["l1_forward"], "reverse": lines["l1_reverse"]},
    }
    return {"": figures.line_figure(panels)}, facts


def _logits(shown: Sequence[Shown]) -> tuple[dict[str, Any], Any]:
    predictions = {one.method: one.predictions for one in shown}
    targets = next(iter(predictions.values())).targets.numpy()
    return {method: one.logits.numpy() for method, one in predictions.items()}, targets


_ALL = (distributions, histograms, tsne, hierarchy, reliability_against, reliability_pairs, fgsm_bars, gradient_curves)
FIGURES: Mapping[str, Callable[[Sequence[Shown]], FigureData]] = {function.__name__: function for function in _ALL}
