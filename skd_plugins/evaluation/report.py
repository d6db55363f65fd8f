"""The report of one evaluation: ``metrics.json`` for programs, ``report.html`` for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError
from ..common.files import write_json
from .arrays import to_numpy
from .metrics import Reliability, Scores, bin_confidences, bin_index, score, summarize

if TYPE_CHECKING:
    from .predictions import Predictions

BINS = 20
_WORST_CLASSES = 15
_WORST_IMAGES = 24
_SKIPPED_SHOWN = 50


def write_report(
    predictions: Predictions,
    out_dir: str | Path,
    *,
    title: str,
    classes: Sequence[str] | None = None,
    info: Mapping[str, Any],
    images: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Path:
    """Writes ``metrics.json`` and one self-contained ``report.html``.

    Args:
        predictions: what `predict` returned. With several processes, call this on one of them.
        out_dir: the folder, made if it is not there.
        title: the heading.
        classes: a name for every output of the model; numbers when None.
        info: what was evaluated and how (checkpoint, data, command, versions), shown as a table.
        images: the image at a position of the data set, uint8 ``[H, W, 3]``. None leaves the sample grid out.

    Returns:
        The path of ``report.html``.

    Raises:
        SkdError: predictions that can't be scored, or class names that do not fit them.
    """
    from .html import write_page
    from .svg import confidence_plot, reliability_plot

    outputs = predictions.logits.shape[1]
    if classes is not None and len(classes) != outputs:
        raise SkdError(f"{len(classes)} class names do not fit a model with {outputs} outputs")
    names = [str(name) for name in classes] if classes is not None else [f"class {k}" for k in range(outputs)]
    metrics = summarize(predictions)
    scores = score(predictions.logits, predictions.targets)
    bins = bin_confidences(scores.confidence, scores.correct, BINS)
    out = Path(out_dir)
    write_json(
        out / "metrics.json",
        {
            "metrics": metrics,
            "reliability": reliability_to_json(bins),
            "info": dict(info),
            "skipped": len(predictions.skipped),
        },
    )
    targets = to_numpy(predictions.targets)
    right = np.bincount(bin_index(scores.confidence[scores.correct], BINS), minlength=BINS)
    page = out / "report.html"
    write_page(
        page,
        "report.html.jinja",
        title=title,
        metrics=metrics,
        bins=bins,
        overconfidence=float(scores.confidence.mean() - scores.correct.mean()),
        reliability_plot=reliability_plot(bins),
        confidence_plot=confidence_plot(bins.edges, right, bins.counts - right),
        class_count=outputs,
        worst_classes=_worst_classes(scores, targets, names),
        wrong_count=int((~scores.correct).sum()),
        worst_images=_worst_images(predictions, scores, targets, names, images) if images is not None else None,
        info=info,
        skipped=sorted(predictions.skipped.items())[:_SKIPPED_SHOWN],
        skipped_count=len(predictions.skipped),
    )
    return page


def reliability_to_json(bins: Reliability) -> dict[str, Any]:
    """What ``metrics.json`` keeps of a reliability diagram; an empty bin's means become null there."""
    return {"edges": bins.edges, "counts": bins.counts, "accuracy": bins.accuracy, "confidence": bins.confidence}


def reliability_from_json(saved: Mapping[str, Any]) -> Reliability:
    """The inverse of `reliability_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    edges, accuracy, confidence = (np.array(saved[key], np.float64) for key in ("edges", "accuracy", "confidence"))
    counts = np.array(saved["counts"], np.int64)
    if not len(edges) - 1 == len(counts) == len(accuracy) == len(confidence) > 0:
        raise ValueError("reliability arrays of different lengths")
    return Reliability(edges, counts, accuracy, confidence)


@dataclass(frozen=True)
class _ClassRow:
    number: int
    name: str
    images: int
    accuracy: float
    confused_with: str
    confused_count: int


def _worst_classes(scores: Scores, targets: NDArray[np.int64], names: list[str]) -> list[_ClassRow]:
    """Classes by accuracy, lowest first (of equals the larger one), without those that have no error."""
    images = np.bincount(targets, minlength=len(names))
    right = np.bincount(targets[scores.correct], minlength=len(names))
    accuracy = right / np.maximum(images, 1)
    rows: list[_ClassRow] = []
    for number in np.lexsort((-images, accuracy)):
        if right[number] == images[number] or len(rows) == _WORST_CLASSES:
            continue
        confused = np.bincount(scores.predicted[(targets == number) & ~scores.correct], minlength=len(names))
        other = int(confused.argmax())
        rows.append(
            _ClassRow(
                int(number),
                names[number],
                int(images[number]),
                float(accuracy[number]),
                names[other],
                int(confused[other]),
            )
        )
    return rows


@dataclass(frozen=True)
class _ImageCell:
    index: int
    uri: str
    label: str
    prediction: str
    confidence: float


def _worst_images(
    predictions: Predictions,
    scores: Scores,
    targets: NDArray[np.int64],
    names: list[str],
    images: Callable[[int], NDArray[np.uint8]],
) -> list[_ImageCell]:
    """The wrong predictions with the highest confidence, highest first."""
    from .pictures import data_uri

    wrong = np.flatnonzero(~scores.correct)
    wrong = wrong[np.argsort(-scores.confidence[wrong], kind="stable")][:_WORST_IMAGES]
    cells = []
    for position in wrong:
        index = int(predictions.indices[position])
        cells.append(
            _ImageCell(
                index,
                data_uri(images(index), index=index),
                names[targets[position]],
                names[scores.predicted[position]],
                float(scores.confidence[position]),
            )
        )
    return cells
