"""The smallest model of each of timm's modules with the methods that use features: a right loss, or a clear refusal.

A model is supported when one step of each method gives the right loss: the output equals the model's own, the
cross-entropy is that output's, every term is finite, and gradients reach the first layers. It is refused when the
package raises `SkdError`. Anything else is our mistake.

Run: python tests/test_timm_models.py [MODULE ...]   (all take 15 minutes and 13 GB; writes docs/timm-models.md)
"""

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from skd_plugins import SkdError, create_task
from skd_plugins.networks import NETWORKS
from skd_plugins.networks.create import classifiers_of

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


def timm_modules() -> set[str]:
    """Without those of our own networks, which are registered with timm."""
    return {module for module in timm.list_modules() if set(timm.list_models(module=module)) - set(NETWORKS)}


def smallest_model(module: str) -> str:
    def size(name: str) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())

    return min(sorted(set(timm.list_models(module=module)) - set(NETWORKS)), key=size)


def try_model(name: str) -> str:
    """``supported`` or ``refused: reason``; anything else is an error."""
    torch.manual_seed(0)
    try:
        with torch.device("meta"):
            classifiers_of(timm.create_model(name, num_classes=CLASSES))  # before anything is computed
        model, size = smallest_input(name)
        for method, arguments in METHODS:
            check_step(model, size, method, arguments)
    except SkdError as error:
        return f"refused: {error}"
    return "supported"


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
    for classifier in classifiers_of(model):
        if not classifier.weight.any():  # gMLP's starts at zero, which lets no gradient through
            nn.init.normal_(classifier.weight, std=0.02)
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
    head = {id(parameter) for classifier in classifiers_of(model) for parameter in classifier.parameters()}
    body = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in head]
    reached = any(parameter.grad is not None and parameter.grad.any() for parameter in body[:5])
    assert reached, f"{method}: no gradient reaches the first layers"


def seeded(function: Any) -> Any:
    """Calls it with seeded generators, for dropout, stochastic depth and VOLO's token mixing."""
    torch.manual_seed(1)
    np.random.seed(1)
    return function()


# (module, model, result) of the page's table
RESULTS = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (.+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
ROWS = [(module, model, result.partition(":")[0]) for module, model, result in RESULTS]


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
    assert try_model(model).partition(":")[0] == status


def main(only: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    known = {module: (model, result) for module, model, result in RESULTS}
    found = []
    for module in sorted(timm_modules()):
        model, result = known.get(module) or (smallest_model(module), "")
        if not result or not only or module in only:
            result = try_model(model)
            print(module, model, result, flush=True)
        found.append((module, model, result))
    found.sort(key=lambda row: row[2] == "supported")
    rows = "".join(f"| `{module}` | `{model}` | {result} |\n" for module, model, result in found)
    DOCUMENT.write_text(f"""# timm's models

Written by `python tests/test_timm_models.py` with timm {timm.__version__}: the smallest model of each of timm's
model modules takes one training step of `sd_dropout`, `cs_kd` (all pairings) and their composition.
**{rows.count("| supported |")} of {len(found)}** are supported: the output is that of the model's own forward, the
loss is that output's, and gradient reaches the first layers. The others are refused with a sentence that
says why. `make slow` checks the table.

| module | model | result |
|---|---|---|
{rows}""")


if __name__ == "__main__":
    main(sys.argv[1:])
