"""Out-of-distribution detection: scores of logits, metrics of scores, and ODIN's perturbation and its tuning.

The metrics take scores of in-distribution samples ``inside [N]`` and of others ``outside [M]`` and are fractions. The
in-distribution is the positive class: a *higher* score means more in-distribution.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.meter import tracked
from ..data.loader import Loader
from ..losses import full_precision
from .attacks import check_eps, input_gradient
from .metrics import Array, to_numpy
from .pixels import Normalised
from .predictions import predict

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]


def max_softmax(logits: Array, temperature: float = 1.0) -> NDArray[np.float64]:
    """The log of the largest softmax probability at a temperature ``[N]``: ODIN's score; at 1 the baseline's (MSP).

    The logarithm ranks like the probability but still separates confident images, whose probabilities all round to 1.

    ODIN scores the logits of the images that `ODIN` perturbed at *the same temperature*.

    Source: Liang et al. 2018 (ODIN), Eq. 1 and section 3; Hendrycks and Gimpel 2017 for temperature 1.
    """
    rows = to_numpy(logits)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise SkdError(f"scores need finite logits [N, C], got {list(rows.shape)}; the model may have diverged")
    scaled = rows.astype(np.float64) / temperature
    top = scaled.argmax(axis=1)[:, None]
    others = np.exp(scaled - np.take_along_axis(scaled, top, axis=1))
    np.put_along_axis(others, top, 0, axis=1)
    return -np.asarray(np.log1p(others.sum(axis=1)))


def ood_metrics(inside: Array, outside: Array) -> dict[str, float]:
    """``fpr95``, ``detection_error``, ``detection_error_min``, ``auroc``, ``aupr_in`` and ``aupr_out`` of scores.

    ``fpr95``: the fraction of out-of-distribution samples that are accepted along with 95 % of the in-distribution.
    The threshold is the highest that accepts at least 95 %; equal scores are accepted together.

    ``detection_error``: ``0.5 (1 - TPR) + 0.5 FPR`` at that threshold, ``detection_error_min`` its least value over
    all thresholds.

    Source: SD-Dropout section 4.5 states the former, as ODIN does. Its Table 7 prints values that the formula can't
        give (LSUN, CE: 39.9 by the formula, 25.0 printed); the minimum can, and ODIN's code (``calMetric.py``)
        computes it.

    ``auroc``: how often an in-distribution sample scores higher; equal scores count half. ``aupr_in``: the average
    precision with the in-distribution as positive; ``aupr_out``: the same for the negated scores, with the other set as
    positive.

    Deviation: ODIN's code weighs both sets equally; here, as in scikit-learn, AUPR depends on their sizes. SD-Dropout
        does not say what it does. Its Table 7 fits 10,000 images (CIFAR-100's test set) against 5,640 (all of DTD) and
        about 10,000 of SVHN, whose test set has 26,032: with all of these, AUPR (in) could not be above AUPR (out) at
        its AUROC.
    """
    inside, outside = to_numpy(inside).astype(np.float64), to_numpy(outside).astype(np.float64)
    for name, scores in (("in-distribution", inside), ("out-of-distribution", outside)):
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise SkdError(f"{name} scores must be finite and [N] with N at least 1, got {list(scores.shape)}")
    needed = int(np.ceil(0.95 * len(inside) - 1e-9))  # 19 of 20, although 0.95 * 20 may be a little more
    threshold = np.sort(inside)[len(inside) - needed]
    every = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), every, side="left") / len(inside)
    accepted = 1 - np.searchsorted(np.sort(outside), every, side="left") / len(outside)
    known, scores = np.repeat([1, 0], [len(inside), len(outside)]), np.concatenate([inside, outside])
    return {
        "fpr95": float((outside >= threshold).mean()),
        "detection_error": float(0.5 * (inside < threshold).mean() + 0.5 * (outside >= threshold).mean()),
        "detection_error_min": float(min(0.5, (0.5 * missed + 0.5 * accepted).min())),
        "auroc": float(roc_auc_score(known, scores)),
        "aupr_in": float(average_precision_score(known, scores)),
        "aupr_out": float(average_precision_score(1 - known, -scores)),
    }


@dataclass(frozen=True, kw_only=True)
class ODIN(Normalised):
    """Moves images by `eps` so that the largest softmax probability at the temperature rises; for `predict`.

    ``x' = x - eps * sign(-grad_x log S(x; T))`` with S the largest softmax probability. Score the result with
    ``max_softmax(logits, temperature)`` at the same temperature; `odin_scores` does both.

    Source: Liang et al. 2018, Eq. 2. As in its code, a step is eps / std of the channel in normalised units, which is
        eps in pixel units for every channel, and nothing is clipped to [0, 1].
    Deviation: here a gradient of exactly 0 leaves the value unchanged; ODIN's code treats it as positive.
    """

    eps: float  # in [0, 1] pixel units
    temperature: float

    def __post_init__(self) -> None:
        check_eps(self.eps, "ODIN")

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input; the target is not used."""
        if not self.eps:
            return input

        def loss(logits: Tensor) -> Tensor:
            scaled = full_precision(logits) / self.temperature
            return F.cross_entropy(scaled, scaled.detach().argmax(1), reduction="sum")

        return input - self.eps / self.scale(input) * input_gradient(model, input, loss).sign()


def odin_scores(model: nn.Module, loader: Batches, perturb: ODIN) -> NDArray[np.float64]:
    """ODIN's scores ``[N]`` in the loader's order: perturbed images, scored at the temperature; on one process."""
    unlabelled = ((input, torch.zeros_like(target)) for input, target in loader)  # their labels may not fit the network
    return max_softmax(predict(model, unlabelled, perturb=perturb).logits, perturb.temperature)


def tune_odin(
    model: nn.Module,
    inside: Batches,
    outside: Batches,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    temperatures: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    eps: Sequence[float] = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004),
) -> tuple[ODIN, dict[tuple[float, float], float]]:
    """Chooses temperature and eps by the FPR at 95 % TPR on held-out batches of both distributions.

    Returns the FPR of every ``(temperature, eps)`` too. Ties go to the smaller eps, then to the smaller temperature.

    Source: Liang et al. 2018, section 4.1 and appendix: a grid of T in 1 ... 1000 and 21 values of eps in 0 ... 0.004,
        chosen by the FPR at 95 % TPR on held-out data. Ours has 4 x 9 of these values.
    Deviation: SD-Dropout takes "the same values as the original paper", which tuned them for other networks. We tune
        each network on 1,000 held-out samples of both distributions (`hold_out`) and report on the rest.
    """
    table: dict[tuple[float, float], float] = {}
    for temperature, size in tracked(list(product(temperatures, eps)), "tuning ODIN"):
        perturb = ODIN(eps=size, temperature=temperature, mean=mean, std=std)
        metrics = ood_metrics(odin_scores(model, inside, perturb), odin_scores(model, outside, perturb))
        table[temperature, size] = metrics["fpr95"]
    best = min(table, key=lambda point: (table[point], point[1], point[0]))
    return ODIN(eps=best[1], temperature=best[0], mean=mean, std=std), table


def odin_metrics(
    model: nn.Module, inside: Loader, outside: Loader, count: int, **grid: Sequence[float]
) -> tuple[dict[str, float], ODIN]:
    """Tunes ODIN on `count` held-out images of each set; returns `ood_metrics` of the others, and the settings."""
    (inside_held, inside_mask), (outside_held, outside_mask) = hold_out(inside, count), hold_out(outside, count)
    odin, _ = tune_odin(model, inside_held, outside_held, mean=inside.mean, std=inside.std, **grid)
    inside_scores, outside_scores = odin_scores(model, inside, odin), odin_scores(model, outside, odin)
    return ood_metrics(inside_scores[~inside_mask], outside_scores[~outside_mask]), odin


def hold_out(loader: Loader, count: int) -> tuple[Batches, NDArray[np.bool_]]:
    """Keeps `count` random samples of an evaluation loader (one process, all images decodable) in memory.

    Returns their batches and ``held_out [N]``: the scores of the other samples are ``scores[~held_out]``.
    """
    total = 0 if loader.indices is None else len(loader.indices)
    if not 0 < count < total:
        raise SkdError(f"can't hold out {count} of {total} samples and keep others; give a smaller count")
    held = np.zeros(total, dtype=np.bool_)
    held[np.random.default_rng(0).permutation(total)[:count]] = True
    batches, start = [], 0
    for input, target in tracked(loader, "reading images to hold out"):
        mask = torch.from_numpy(held[start : start + len(target)]).to(input.device)
        start += len(target)
        if mask.any():
            batches.append((input[mask], target[mask]))
    if start != total:
        raise SkdError(f"the loader gave {start} of {total} images; repair the images that can't be decoded")
    return batches, held
