"""``skd evaluate`` and its options; without torch, so that its help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .. import evaluation as evaluations
from ..weights import Which
from .comparison import metrics_line


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


_DEFAULT = Options()


def evaluate(
    weights: tyro.conf.Positional[str],
    *,
    data: str | None = None,
    out: Path | None = None,
    evaluation: tyro.conf.OmitArgPrefixes[Options] = _DEFAULT,
) -> None:
    """Evaluate a run, a checkpoint, a file or a name of weights: metrics.json and a report.html.

    Args:
        weights: a run's folder, a checkpoint (.pt), exported weights (.safetensors), or a name: of released weights
            (skd weights list), timm/NAME.TAG, torchvision/NAME.WEIGHTS. With --recipe also a checkpoint of timm's
            train.py, torchvision's or Lightning's, or a plain state dict.
        data: folder with val.beton or val/, or that file or folder itself; the embedded digits by default if the
            network was trained on them.
        out: where the report goes; by default "evaluation" beside the weights, or evaluation/NAME for a name. Other
            checkpoints, raw weights and further measurements get their own folder, such as "evaluation-best-raw".
        evaluation: which weights, and how.
    """
    report = evaluations.evaluate_weights(weights, data=data, out=out, **vars(evaluation))
    print(metrics_line(report.with_name("metrics.json")))
    print(f"report: {report}")
