"""Each figure of the papers: the numbers that it shows, from what was measured; `figures` draws them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

from ...common.errors import SkdError
from ...data.sources import read_hierarchy
from ...evaluation.metrics import reliability, score
from ...evaluation.predictions import Predictions
from ..runs.scores import PREDICTIONS
from . import figures

_EXAMPLES, _CLASSES = 2, 10  # images of a predictive distribution; classes of a t-SNE


class Fact(NamedTuple):
    """A number of a figure: what it is, and the number with its unit."""

    what: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A method in a figure."""

    method: str
    folder: Path  # of its job of seed 0
    data: Path
    values: Mapping[str, Sequence[Mapping[str, Any]]]  # evaluation to its values, one for each seed

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
    """CS-KD, Figures 1(b) and 6: the probabilities that the networks give to five classes of common mistakes.

    The paper does not say how it chose samples and classes. Here they are the samples with the largest mean confidence
    and the likeliest classes on average, then the true one if it is not among them.
    """
    logits, targets = _logits(shown)
    samples = _common_mistakes(logits, targets)
    confidence = np.mean([score(rows, targets).confidence for rows in logits.values()], axis=0)
    drawn, facts = {}, [Fact("images that all get wrong", f"{len(samples):,}")]
    for number, sample in enumerate(samples[np.argsort(-confidence[samples], kind="stable")][:_EXAMPLES].tolist(), 1):
        probabilities = {method: softmax(rows[sample].astype(np.float64)) for method, rows in logits.items()}
        likeliest = np.argsort(-np.mean(list(probabilities.values()), axis=0), kind="stable")[:5].tolist()
        true = int(targets[sample])
        chosen = likeliest if true in likeliest else [*likeliest, true]
        names = [shown[0].classes[k] + " (true)" * (k == true) for k in chosen]
        parts = {method: row[chosen] for method, row in probabilities.items()}
        drawn[f"-{number}"] = figures.distribution_figure(parts, names, chosen.index(true), f"class (sample {sample})")
        facts += [
            Fact(f"image {sample}: {method}, probability of the true class", f"{100 * row[true]:.2f} %")
            for method, row in probabilities.items()
        ]
    return drawn, facts


def histograms(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figures 2 and 7 to 10: log-probabilities on the samples that all get wrong (section 2.2)."""
    logits, targets = _logits(shown)
    samples = _common_mistakes(logits, targets)
    if not len(samples):
        raise SkdError(f"there is no sample that all of {', '.join(logits)} get wrong")
    found: dict[str, dict[str, NDArray[np.float64]]] = {"predicted": {}, "true": {}}
    facts = [Fact("images that all get wrong", f"{len(samples):,}")]
    for method, rows in logits.items():
        scores = score(rows[samples], targets[samples])
        for kind, values in (("predicted", np.log(scores.confidence)), ("true", scores.log_prob)):
            found[kind][method] = values
            facts.append(Fact(f"{method}: mean log-probability of the {kind} class", f"{values.mean():.3f} nats"))
    return {"": figures.histogram_figure(found, len(samples))}, facts


def tsne(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figure 3: the features before the classifier (section 3.3), with the perplexity that is usual."""
    panels, facts = {}, []
    for one in shown:
        predictions = one.predictions
        targets = predictions.targets.numpy()
        keep = targets < _CLASSES
        features = predictions.features.numpy()[keep].astype(np.float64)
        points = TSNE(perplexity=30, init="pca", learning_rate="auto", random_state=0).fit_transform(features)
        panels[one.method] = (points, targets[keep])
        recall = one.values["clean"][0]["recall_at_1"]
        facts.append(Fact(f"{one.method}: R@1 of the features, all classes", f"{100 * recall:.2f} %"))
    return {"": figures.embedding_figure(panels, dict(enumerate(shown[0].classes[:_CLASSES])))}, facts


def hierarchy(shown: Sequence[Shown]) -> FigureData:
    """CS-KD, Figure 4: the superclass of the predicted class, rows normalised, and the error of the classes."""
    table = read_hierarchy(shown[0].data)
    groups = np.array([table[name] for name in shown[0].classes])
    names = list(dict.fromkeys(groups.tolist()))
    logits, targets = _logits(shown)
    confusions, errors, facts = {}, {}, []
    for method, rows in logits.items():
        scores = score(rows, targets)
        confusion = confusion_matrix(groups[targets], groups[scores.predicted], labels=names, normalize="true")
        own = {name: scores.correct[groups[targets] == name] for name in names}
        confusions[method], errors[method] = confusion, {name: 100 * (1 - own[name].mean()) for name in names}
        for name, share in zip(names, np.diag(confusion), strict=True):
            facts.append(Fact(f"{method}: {name} taken for {name}", f"{100 * share:.1f} %"))
            facts.append(Fact(f"{method}: top-1 error of the labels of {name}", f"{errors[method][name]:.2f} %"))
    bars = figures.bar_figure(errors, ylabel="top-1 error of the fine labels (%)")
    return {"-confusion": figures.confusion_figure(confusions, names), "-errors": bars}, facts


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
    for number, one in enumerate(shown):
        series, group = ("without", "with SD-Dropout")[number % 2], shown[number - number % 2].method
        accuracies = [100 * found["top1_legacy"] for found in one.values["fgsm"]]
        values[series][group], text = fmean(accuracies), f"{fmean(accuracies):.1f}"
        if len(accuracies) > 1:
            spreads[series][group] = stdev(accuracies)
            text += f" ± {stdev(accuracies):.1f}"
        facts.append(Fact(f"{one.method}: accuracy under FGSM", f"{text} %"))
    errors = spreads if spreads["without"] else None
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


def _common_mistakes(logits: Mapping[str, NDArray[Any]], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the samples that every network gets wrong."""
    return np.flatnonzero(np.logical_and.reduce([~score(rows, targets).correct for rows in logits.values()]))


_ALL = (distributions, histograms, tsne, hierarchy, reliability_against, reliability_pairs, fgsm_bars, gradient_curves)
FIGURES: Mapping[str, Callable[[Sequence[Shown]], FigureData]] = {function.__name__: function for function in _ALL}
