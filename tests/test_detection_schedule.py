"""Epochs to iterations, and the learning rate's rule."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.config import load_config
from detection.schedule import apply_schedule, schedule
from skd_plugins import SkdError

DROPS = (2 / 3, 8 / 9)


@pytest.mark.parametrize(
    ("images", "epochs", "iterations"),
    [
        (117_266, 12, 87_950), (117_266, 7, 51_304), (118_287, 12, 88_716), (118_287, 7, 51_751),
        (90_000, 16, 90_000),  # detectron2's own, with drops at 60,000 and 80,000
    ],
)  # fmt: skip
def test_coco(images: int, epochs: float, iterations: int) -> None:
    plan = schedule(images, 16, epochs, DROPS, 0.02, 16)
    assert plan.iterations == iterations
    assert plan.drops == (round(iterations * 2 / 3), round(iterations * 8 / 9))
    assert plan.lr == 0.02


@given(images=st.integers(1, 10**6), batch=st.integers(1, 512), epochs=st.floats(0.01, 100))
def test_every_image_is_seen_and_no_batch_too_many(images: int, batch: int, epochs: float) -> None:
    plan = schedule(images, batch, epochs, DROPS, 0.02, 16)
    seen = plan.iterations * batch
    assert seen >= epochs * images - 1e-4 * batch
    assert seen < epochs * images + batch
    assert all(0 < drop < plan.iterations for drop in plan.drops)
    assert list(plan.drops) == sorted(set(plan.drops))
    assert len(plan.drops) == 2 or plan.iterations < 6
    assert plan.lr == pytest.approx(0.02 * batch / 16)


def test_the_command_line_wins_and_the_record_says_so() -> None:
    cfg = load_config("faster_rcnn_ce", ["SOLVER.IMS_PER_BATCH", "8"])
    text = apply_schedule(cfg, 117_266)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (175_899, (117_266, 156_355), 0.01)
    assert "0.01 = SKD.BASE_LR 0.02 * batch 8 / SKD.REFERENCE_BATCH 16" in text
    assert cfg.SKD.EPOCHS == 12

    overrides = ["SOLVER.MAX_ITER", "90"]
    cfg = load_config("faster_rcnn_ce", overrides)
    text = apply_schedule(cfg, 117_266, overrides)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (90, (60, 80), 0.02)
    assert text.startswith("SOLVER.MAX_ITER 90 from the command line; else ")
    assert cfg.SKD.EPOCHS == 0  # the saved config, read again, gives the same
    again = apply_schedule(cfg, 5)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (90, (60, 80))
    assert "SKD.EPOCHS is 0" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "SKD.EPOCHS should be above 0, got -1"),
        ({"drops": (0.9, 0.5)}, "SKD.DROPS should be ascending"),
        ({"drops": (0.5, 1.0)}, "SKD.DROPS should be ascending"),
        ({"batch_size": 0}, "SOLVER.IMS_PER_BATCH should be above 0"),
        ({"base_lr": float("nan")}, "SKD.BASE_LR should be above 0"),
    ],
)
def test_nonsense(arguments: dict[str, Any], message: str) -> None:
    sound = {"images": 10, "batch_size": 2, "epochs": 1, "drops": DROPS, "base_lr": 0.1, "reference_batch": 16}
    with pytest.raises(SkdError, match=re.escape(message)):
        schedule(**(sound | arguments))
