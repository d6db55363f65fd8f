"""Schedules in epochs, turned into detectron2's iterations."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.config import CfgNode

from skd_plugins.common.errors import SkdError

_DERIVED = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS")


class Schedule(NamedTuple):
    """A training's length and learning rate."""

    iterations: int
    drops: tuple[int, ...]  # iterations after which the learning rate is divided
    lr: float  # before the first drop


def schedule(
    images: int, batch_size: int, epochs: float, drops: Sequence[float], base_lr: float, reference_batch: int
) -> Schedule:
    """Iterations for `epochs` passes over `images`, rounded up to a full batch.

    The learning rate is proportional to the batch (Goyal et al. 2017, as in detectron2's model zoo).

    Args:
        batch_size: images a step, over all processes.
        drops: fractions of the training, ascending, in (0, 1).
        base_lr: learning rate for a batch of `reference_batch` images.
    """
    above_zero = {
        "the number of training images": images, "SOLVER.IMS_PER_BATCH": batch_size, "SKD.EPOCHS": epochs,
        "SKD.BASE_LR": base_lr, "SKD.REFERENCE_BATCH": reference_batch,
    }  # fmt: skip
    for key, value in above_zero.items():
        if not value > 0:
            raise SkdError(f"{key} should be above 0, got {value:g}")
    if list(drops) != sorted(drops) or not all(0 < drop < 1 for drop in drops):
        raise SkdError(f"SKD.DROPS should be ascending fractions of the training, between 0 and 1, got {list(drops)}")
    iterations = math.ceil(round(epochs * images / batch_size, 6))
    return Schedule(iterations, _drops_at(drops, iterations), base_lr * batch_size / reference_batch)


def _drops_at(fractions: Sequence[float], iterations: int) -> tuple[int, ...]:
    """Distinct iterations before the last. A very short training has fewer drops."""
    return tuple(sorted({at for fraction in fractions if 0 < (at := round(fraction * iterations)) < iterations}))


def apply_schedule(cfg: CfgNode, images: int, overrides: Sequence[str] = ()) -> str:
    """Writes the schedule of ``SKD`` into ``SOLVER`` and says in one line what was decided and why.

    Values of ``SOLVER`` in `overrides`, the command line's ``KEY VALUE ...``, stay as they are.
    """
    solver, skd = cfg.SOLVER, cfg.SKD
    if not skd.EPOCHS:
        steps = f"{solver.MAX_ITER} iterations, drops at {list(solver.STEPS)}"
        return f"{steps}, lr {solver.BASE_LR:g} (SOLVER; SKD.EPOCHS is 0)"
    given = {key: value for key, value in zip(overrides[::2], overrides[1::2], strict=True) if key in _DERIVED}
    plan = schedule(images, solver.IMS_PER_BATCH, skd.EPOCHS, skd.DROPS, skd.BASE_LR, skd.REFERENCE_BATCH)
    if "SOLVER.MAX_ITER" not in given:
        solver.MAX_ITER = plan.iterations
    if "SOLVER.STEPS" not in given:
        solver.STEPS = _drops_at(skd.DROPS, solver.MAX_ITER)
    if "SOLVER.BASE_LR" not in given:
        solver.BASE_LR = plan.lr
    if "SOLVER.WARMUP_ITERS" not in given:  # a small set's training could end before its warm-up
        solver.WARMUP_ITERS = min(solver.WARMUP_ITERS, solver.MAX_ITER // 3)
    text = (
        f"{solver.MAX_ITER} iterations = {skd.EPOCHS:g} epochs of {images} images at batch {solver.IMS_PER_BATCH}, "
        f"drops at {list(solver.STEPS)}, lr {plan.lr:g} = SKD.BASE_LR {skd.BASE_LR:g} * batch {solver.IMS_PER_BATCH} / "
        f"SKD.REFERENCE_BATCH {skd.REFERENCE_BATCH}, warm-up of {solver.WARMUP_ITERS} iterations"
    )
    if given:
        skd.EPOCHS = 0.0  # the saved configuration must state what was done
        text = f"{', '.join(f'{key} {value}' for key, value in given.items())} from the command line; else {text}"
    return text
