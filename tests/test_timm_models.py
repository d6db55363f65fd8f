"""The smallest model of each of timm's modules with the methods that use features: a right loss, or a clear refusal.

A model is supported when one step of each method gives the right loss: the output equals the model's own, the
cross-entropy is that output's, every term is finite, and gradients reach the first layers. It is refused when the
package raises `SkdError`. Anything else is our mistake.

Run: python tests/test_timm_models.py   (takes 15 minutes; writes docs/timm-models.md)
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from torch import nn

from skd_plugins import SkdError, create_task
from skd_plugins.networks import NETWORKS
from skd_plugins.networks.build import classifier_of

DOCUMENT = Path(__file__).parents[1] / "docs" / "timm-models.md"
CLASSES, BATCH = 7, 4
SIZES = (64, 96, 128, 160, 224, 256)
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("sd_dropout", {}),
    ("cs_kd", {"pairing": "sampled"}),
    ("cs_kd", {"pairing": "batch"}),
    ("cs_kd", {"pairing": "bank"}),
    ("sd_dropout", {"base": "cs_kd", "weight": 0.1}),
]


class Result(NamedTuple):
    module: str
    model: str
    status: str
    reason: str = ""  # why it is refused or wrong


def timm_modules() -> set[str]:
    """Without those of our own networks, which are registered with timm."""
    return {module for module in timm.list_modules() if set(timm.list_models(module=module)) - set(NETWORKS)}


def smallest_models() -> dict[str, str]:
    """The model with the fewest parameters in each module."""

    def size(name: str) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())

    return {
        module: min(sorted(set(timm.list_models(module=module)) - set(NETWORKS)), key=size)
        for module in sorted(timm_modules())
    }


def try_model(module: str, name: str) -> Result:
    torch.manual_seed(0)
    try:
        with torch.device("meta"):
            classifier_of(timm.create_model(name, num_classes=CLASSES))  # before anything is computed
        model, size = smallest_input(name)
        for method, arguments in METHODS:
            check_step(model, size, method, arguments)
    except SkdError as error:
        return Result(module, name, "refused", str(error))
    except Exception as error:  # our mistake; the other models are still tried
        return Result(module, name, "wrong", f"{type(error).__name__}: {error}")
    return Result(module, name, "supported")


def smallest_input(name: str) -> tuple[nn.Module, int]:
    """The model, and the smallest image side it trains on."""
    for size in (*SIZES, 0):
        try:
            model = timm.create_model(name, num_classes=CLASSES, img_size=size or None)
        except TypeError:
            model = timm.create_model(name, num_classes=CLASSES)
        size = size or model.default_cfg["input_size"][1]
        try:
            model.train()(torch.randn(2, 3, size, size))
        except (RuntimeError, AssertionError, ValueError, IndexError):
            if size == model.default_cfg["input_size"][1]:
                raise
            continue
        return model, size
    raise AssertionError(f"{name} trains on no size")


def check_step(model: nn.Module, size: int, method: str, arguments: dict[str, Any]) -> None:
    task = create_task(method, model, verbose=False, **arguments).train()
    weight = next(classifier_of(model).parameters())
    if not weight.any():  # gMLP's starts at zero, which lets no gradient through
        nn.init.normal_(weight, std=0.02)
    segments = len(task.method.segments)
    input = torch.randn(segments * BATCH, 3, size, size)
    target = torch.tensor([0, 0, 1, 1]).repeat(segments)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = seeded(lambda: model(input[:BATCH]))
    model.load_state_dict(state)
    model.zero_grad()
    result = seeded(lambda: task(input, target))
    result["loss"].backward()
    torch.testing.assert_close(result["output"], expected, rtol=1e-3, atol=1e-4)
    ce = nn.functional.cross_entropy(expected, target[:BATCH])
    torch.testing.assert_close(result["ce"], ce.detach(), rtol=1e-3, atol=1e-4)
    assert all(value.isfinite() for value in result.values() if value.ndim == 0), f"{method}: a term is not finite"
    head = {id(parameter) for parameter in classifier_of(model).parameters()}
    body = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in head]
    reached = any(parameter.grad is not None and parameter.grad.any() for parameter in body[:5])
    assert reached, f"{method}: no gradient reaches the first layers"


def seeded(function: Any) -> Any:
    """Calls it with seeded generators, for dropout, stochastic depth and VOLO's token mixing."""
    torch.manual_seed(1)
    np.random.seed(1)
    return function()


def document(results: list[Result]) -> str:
    counts = Counter(result.status for result in results)
    rows = [
        f"| `{module}` | `{model}` | {status}{f': {reason}' if reason else ''} |\n"
        for module, model, status, reason in sorted(results, key=lambda row: (row.status == "supported", row.module))
    ]
    return f"""# timm's models

Written by `python tests/test_timm_models.py` with timm {timm.__version__}: the smallest model of each of timm's
model modules takes one training step of `sd_dropout`, `cs_kd` (all pairings) and their composition.
**{counts["supported"]} of {len(results)}** are supported: the output is that of the model's own forward, the
loss is that output's, and gradient reaches the first layers. The others are refused with a sentence that
says why; wrong: {counts["wrong"]}. `make slow` checks the table.

| module | model | result |
|---|---|---|
{"".join(rows)}"""


def documented() -> list[tuple[str, str, str]]:
    """(module, model, status) of the page's table."""
    return re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (\w+)", DOCUMENT.read_text(), flags=re.MULTILINE)


ROWS = documented()


def test_the_page_has_every_module() -> None:
    assert len(ROWS) >= 90
    if f"timm {timm.__version__}:" in DOCUMENT.read_text():
        assert {module for module, _, _ in ROWS} == timm_modules()
    assert {status for _, _, status in ROWS} == {"supported", "refused"}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "model", "status"), ROWS)
def test_a_right_loss_or_a_refusal(module: str, model: str, status: str) -> None:
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")
    result = try_model(module, model)
    assert result.status == status, result.reason


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = {module: model for module, model, _ in ROWS}
    if set(chosen) != timm_modules():
        chosen = smallest_models()
    results = []
    for module, name in chosen.items():
        results.append(try_model(module, name))
        print(*results[-1], flush=True)
    DOCUMENT.write_text(document(results))


if __name__ == "__main__":
    main()
