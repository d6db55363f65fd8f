"""What to evaluate; without torch, for the help of ``skd evaluate``."""

from dataclasses import dataclass
from typing import Literal

import tyro

from ..weights import Which


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which weights to evaluate, and how.

    Args:
        which: which checkpoint of a run's folder.
        raw: the raw weights, if the checkpoint also has averaged ones.
        batch_size: images a batch.
        workers: decoding threads or processes.
        skip_broken: leave undecodable images out and count them.
        save_predictions: write logits, features and targets too (600 MB for ImageNet).
        attack: evaluate on adversarial images instead.
        eps: how far the attack may change a pixel, in [0, 1]; 8/255 (0.0314) by default.
        corruptions: measure the accuracy under the 15 corruptions of ImageNet-C at 5 severities too, in 75 more passes.
    """

    which: Which = "last"
    raw: tyro.conf.FlagCreatePairsOff[bool] = False
    batch_size: int = 256
    workers: int = 4
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False
    save_predictions: tyro.conf.FlagCreatePairsOff[bool] = False
    attack: Literal["fgsm", "pgd"] | None = None
    eps: float | None = None
    corruptions: tyro.conf.FlagCreatePairsOff[bool] = False
