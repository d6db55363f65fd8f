"""The report of one evaluation: ``metrics.json`` for programs, ``report.html`` for people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError
from ..common.files import write_json
from ..data.datasets.cifar100c import CORRUPTIONS
from .html import data_uri, write_page
from .metrics import Array, Scores, bin_confidences, calibration_intervals, score, to_numpy
from .predictions import Predictions
from .retrieval import recall_at_1
from .svg import confidence_plot, confusion_plot, reliability_plot

_MOST_DRAWN = 64  # classes in a confusion matrix; of more, the names could not be read


def summarize(predictions: Predictions) -> dict[str, float]:
    """All metrics of one evaluation: top1, top5, nll, ece (20 bins), ece_10, recall_at_1 and num_samples.

    ``recall_at_1`` is NaN for a single sample, which has no neighbour.
    """
    scores = score(predictions.logits, predictions.targets, indices=predictions.indices)
    return {
        "top1": float(scores.correct.mean()),
        "top5": float((scores.rank < 5).mean()),
        "nll": float(-scores.log_prob.mean()),
        "ece": bin_confidences(scores.confidence, scores.correct, 20).ece,
        "ece_10": bin_confidences(scores.confidence, scores.correct, 10).ece,
        "recall_at_1": recall_at_1(predictions.features, predictions.targets, indices=predictions.indices),
        "num_samples": len(scores.rank),
    }


def corruption_accuracy(top1: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Accuracy under each corruption, averaged over severities, and ``mca``, the mean of the benchmark's fifteen.

    Source: SD-Dropout, section 4.4.2 and Table 6: mCA is the mean of the 15 accuracies printed. The severities are not
        given; the authors' script (yechanp/self_kd ``eval_cifiar_C.py``) takes all five together, which is their mean.
    Deviation: that script averages 19 corruptions, the four extra ones too; the table has 15, and so has this mean.
    """
    accuracy = {name: float(np.mean(values)) for name, values in top1.items()}
    return accuracy | {"mca": float(np.mean([accuracy[name] for name in CORRUPTIONS]))}


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What an evaluation measured besides the predictions."""

    corrupted: Mapping[str, Sequence[float]] | None = None  # what `corrupted_top1` returned
    superclasses: Sequence[str] | None = None  # of each class
    scaled: Mapping[str, float] = field(default_factory=dict)  # what `temperature_scaled` returned
    # For each set of other images, their number (``images``) and what `ood_metrics` returned for ``msp`` and ``odin``.
    ood: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def metrics(self, predicted: NDArray[np.int64], targets: Array) -> dict[str, float]:
        """One number for each, for ``metrics.json``, comparisons and the terminal."""
        found = dict(self.scaled)
        if self.corrupted:
            found["mca"] = corruption_accuracy(self.corrupted)["mca"]
        if self.superclasses:
            of_class = np.array(self.superclasses)
            found["superclass_error"] = float((of_class[predicted] != of_class[to_numpy(targets)]).mean())
        sets = list(self.ood.values())
        for name, key in product(("msp", "odin"), ("auroc", "fpr95")):
            if sets and name in sets[0]:
                found[f"{name}_{key}"] = float(np.mean([one[name][key] for one in sets]))
        return found


def write_report(
    predictions: Predictions,
    out_dir: str | Path,
    *,
    title: str,
    classes: Sequence[str] | None = None,
    info: Mapping[str, Any],
    images: Callable[[int], NDArray[np.uint8]] | None = None,
    extras: Extras | None = None,
) -> Path:
    """Writes ``metrics.json`` and one self-contained ``report.html``, and returns the path of the latter.

    Args:
        predictions: what `predict` returned. With several processes, call this on one of them.
        classes: a name for every output of the model; numbers when None.
        info: what was evaluated and how (checkpoint, data, command, versions), shown as a table.
        images: returns the image at a position of the data set, uint8 ``[H, W, 3]``. None leaves out the images.
    """
    extras = extras or Extras()
    outputs = predictions.logits.shape[1]
    names = [f"class {k}" for k in range(outputs)] if classes is None else list(classes)
    if len(names) != outputs:
        raise SkdError(f"{len(names)} class names do not fit a model with {outputs} outputs")
    scores = score(predictions.logits, predictions.targets)
    metrics = summarize(predictions) | extras.metrics(scores.predicted, predictions.targets)
    bins = bin_confidences(scores.confidence, scores.correct, 20)
    intervals = calibration_intervals(scores)
    saved = {"metrics": metrics, "intervals": intervals, "reliability": vars(bins), "info": info,
             "skipped": len(predictions.skipped)}  # fmt: skip
    # [C, C] images: rows are the classes, columns the predictions
    confusion = np.bincount(predictions.targets.numpy() * outputs + scores.predicted, minlength=outputs**2)
    confusion = confusion.reshape(outputs, outputs)
    if extras.corrupted:
        saved["corruptions"] = extras.corrupted
    if extras.ood:
        saved["ood"] = extras.ood
    write_json(Path(out_dir) / "metrics.json", saved)
    page = Path(out_dir) / "report.html"
    write_page(
        page,
        "report.html.jinja",
        title=title,
        metrics=metrics,
        bins=bins,
        intervals=intervals,
        overconfidence=float(scores.confidence.mean() - scores.correct.mean()),
        reliability_plot=reliability_plot(bins),
        confidence_plot=confidence_plot(bins),
        class_count=outputs,
        worst_classes=_worst_classes(confusion, names),
        confusion_plot=confusion_plot(confusion, names) if outputs <= _MOST_DRAWN else None,
        wrong_count=int((~scores.correct).sum()),
        worst_images=_worst_images(predictions, scores, names, images) if images is not None else None,
        corrupted=extras.corrupted,
        mean_top1=corruption_accuracy(extras.corrupted) if extras.corrupted else {},
        ood=extras.ood,
        info=info,
        skipped=sorted(predictions.skipped.items())[:50],
        skipped_count=len(predictions.skipped),
    )
    return page


def _worst_classes(confusion: NDArray[np.int64], names: list[str]) -> list[tuple[Any, ...]]:
    """Up to 15 classes with errors, lowest accuracy first (of equals the larger): name, images, accuracy, confusion."""
    images, right = confusion.sum(axis=1), confusion.diagonal()
    wrong = confusion - np.diag(right)
    accuracy = right / np.maximum(images, 1)
    order = np.lexsort((-images, accuracy))
    return [
        (names[number], images[number], accuracy[number], names[wrong[number].argmax()], wrong[number].max())
        for number in order[right[order] < images[order]][:15]
    ]


def _worst_images(
    predictions: Predictions, scores: Scores, names: list[str], images: Callable[[int], NDArray[np.uint8]]
) -> list[dict[str, Any]]:
    """Up to 24 wrong predictions with the highest confidence, highest first."""
    wrong = np.flatnonzero(~scores.correct)
    cells = []
    for position in wrong[np.argsort(-scores.confidence[wrong], kind="stable")][:24]:
        index, target = int(predictions.indices[position]), int(predictions.targets[position])
        cell = {"index": index, "uri": data_uri(images(index)), "confidence": scores.confidence[position]}
        cells.append(cell | {"label": names[target], "prediction": names[scores.predicted[position]]})
    return cells
