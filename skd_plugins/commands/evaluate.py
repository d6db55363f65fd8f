"""``skd evaluate``."""

from pathlib import Path

import tyro

from .. import evaluation as evaluations
from ..evaluation.comparison import metrics_line
from ..evaluation.options import Options

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
