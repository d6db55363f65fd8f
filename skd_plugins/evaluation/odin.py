"""ODIN: a perturbation that makes in-distribution images stand out, and the choice of its two parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.meter import tracked
from ..methods.losses import full_precision
from .attacks import check_eps, input_gradient
from .ood import fpr95, max_softmax
from .pixels import Normalised
from .predictions import predict

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
TEMPERATURES = (1.0, 10.0, 100.0, 1000.0)
EPS = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004)


@dataclass(frozen=True, kw_only=True)
class ODIN(Normalised):
    """Moves images by `eps` so that the largest softmax probability at the temperature rises; for `predict`.

    ``x' = x - eps * sign(-grad_x log S(x; T))`` with S the largest softmax probability. Score the result with
    ``max_softmax(logits, temperature)`` at the same temperature; `odin_scores` does both.

    Source: Liang et al. 2018, Eq. 2. As in its code, a step is eps / std of the channel in normalised units, which is
        eps in pixel units for every channel, and nothing is clipped to [0, 1].
    Deviation: a gradient of exactly 0 moves nothing here; their code treats it as positive.

    Attributes:
        eps: in [0, 1] pixel units.
        temperature: T of the softmax.
    """

    eps: float
    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.eps, "ODIN")
        if not 0 < self.temperature < float("inf"):
            raise SkdError(f"ODIN takes a temperature above 0, got {self.temperature:g}")

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input. The target is not used."""
        if not self.eps:
            return input

        def loss(logits: Tensor) -> Tensor:
            scaled = full_precision(logits) / self.temperature
            return F.cross_entropy(scaled, scaled.detach().argmax(1), reduction="sum")

        return input - self.eps / self.scale(input) * input_gradient(model, input, loss).sign()


class Unlabelled:
    """A loader with all labels set to 0, so that out-of-distribution data fit any network."""

    def __init__(self, loader: Batches) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for input, target in self.loader:
            yield input, torch.zeros_like(target)

    def __getattr__(self, name: str) -> Any:  # `indices` and `skipped`, if the loader has them
        return getattr(self.loader, name)


def odin_scores(model: nn.Module, loader: Batches, perturb: ODIN) -> NDArray[np.float64]:
    """ODIN's scores ``[N]``: perturbed images, scored at the temperature. Labels are not used."""
    return max_softmax(predict(model, Unlabelled(loader), perturb=perturb).logits, perturb.temperature)


def tune_odin(
    model: nn.Module,
    inside: Batches,
    outside: Batches,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    temperatures: Sequence[float] = TEMPERATURES,
    eps: Sequence[float] = EPS,
) -> tuple[ODIN, dict[tuple[float, float], float]]:
    """Chooses temperature and eps by the FPR at 95 % TPR on held-out samples of both distributions.

    Ties go to the smaller eps, then to the smaller temperature.

    Source: Liang et al. 2018, section 4.1 and appendix: a grid of T in 1 ... 1000 and 21 values of eps in 0 ... 0.004,
        chosen by the FPR at 95 % TPR on held-out data. Ours has 4 x 9 of these values.
    Deviation: SD-Dropout takes "the same values as the original paper", which tuned them for other networks. We tune
        each network on 1,000 held-out samples of both distributions (`hold_out`) and report on the rest.

    Args:
        model: a classifier, on the loaders' device.
        inside: held-out batches of the in-distribution, iterated once for each point of the grid.
        outside: those of the other distribution.
        mean: of the loaders' normalisation.
        std: of the loaders' normalisation.
        temperatures: the grid of T.
        eps: the grid of eps, in pixel units.

    Returns:
        the chosen perturbation, and the FPR of every ``(temperature, eps)``.
    """
    table: dict[tuple[float, float], float] = {}
    for temperature, size in tracked(list(product(temperatures, eps)), "tuning ODIN"):
        perturb = ODIN(eps=size, temperature=temperature, mean=mean, std=std)
        table[temperature, size] = fpr95(odin_scores(model, inside, perturb), odin_scores(model, outside, perturb))
    best = min(table, key=lambda point: (table[point], point[1], point[0]))
    return ODIN(eps=best[1], temperature=best[0], mean=mean, std=std), table


def hold_out(
    loader: Batches, count: int = 1000, seed: int = 0
) -> tuple[list[tuple[Tensor, Tensor]], NDArray[np.bool_]]:
    """Keeps `count` random samples of an evaluation loader as batches in memory.

    Args:
        loader: has ascending `indices`; on one process, without undecodable images.
        count: fewer than the loader has.
        seed: of the choice.

    Returns:
        ``(batches, held_out [N])``: the scores of the other samples are ``scores[~held_out]``.
    """
    indices = getattr(loader, "indices", None)
    if indices is None:
        raise SkdError("hold_out needs a loader with `indices`, such as make_loader(train=False)")
    if not 0 < count < len(indices):
        raise SkdError(f"can't hold out {count} of {len(indices)} samples and keep others; give a smaller count")
    held = np.zeros(len(indices), dtype=np.bool_)
    held[np.random.default_rng(seed).permutation(len(indices))[:count]] = True
    batches, start = [], 0
    for input, target in tracked(loader, "reading images to hold out"):
        mask = torch.from_numpy(held[start : start + len(target)]).to(input.device)
        start += len(target)
        if mask.any():
            batches.append((input[mask], target[mask]))
    if start != len(indices):
        raise SkdError(f"the loader gave {start} of {len(indices)} images; repair the images that can't be decoded")
    return batches, held
