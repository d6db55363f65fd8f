"""What to evaluate; without torch, for the help of ``skd evaluate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..weights import Which


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which weights to evaluate, and how.

    Args:
        which: which checkpoint of a run's folder.
        raw: the raw weights, if the checkpoint also has averaged ones.
        recipe: recipe file with the network and the pixels of a checkpoint of another program.
        image_size: side of the images in pixels; by default what the network was trained for.
        flip: average the logits of each image and its mirror image.
        batch_size: images a batch.
        workers: decoding threads or processes.
        skip_broken: leave undecodable images out and count them.
        save_predictions: write logits, features and targets too (600 MB for ImageNet).
        attack: evaluate on adversarial images instead.
        eps: how far the attack may change a pixel, in [0, 1]; 8/255 (0.0314) by default.
        corruptions: measure the accuracy under the 15 corruptions of ImageNet-C at 5 severities too, in 75 more passes.
        ood: images of no known class (a folder, a .beton, or embedded data such as glyphs_other): measure how well the
            confidence tells them from the evaluated ones.
        odin: measure ODIN's score on them too, tuned on up to 1,000 held-out images of both.
        temperature_from: fit a temperature on these images, never on the evaluated ones; measure NLL and ECE at it too.
    """

    which: Which = "last"
    raw: tyro.conf.FlagCreatePairsOff[bool] = False
    recipe: Path | None = None
    image_size: int | None = None
    flip: tyro.conf.FlagCreatePairsOff[bool] = False
    batch_size: int = 256
    workers: int = 4
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False
    save_predictions: tyro.conf.FlagCreatePairsOff[bool] = False
    attack: Literal["fgsm", "pgd"] | None = None
    eps: float | None = None
    corruptions: tyro.conf.FlagCreatePairsOff[bool] = False
    ood: tuple[str, ...] = ()
    odin: tyro.conf.FlagCreatePairsOff[bool] = False
    temperature_from: str | None = None
