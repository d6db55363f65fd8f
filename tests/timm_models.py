"""Tries the smallest model of each of timm's modules with the methods that use features, and writes the table.

A model is supported when one step of each method gives the right loss: the output equals the model's own, the
cross-entropy is that output's, every term is finite, and gradients reach the first layers. It is refused when the
package raises `SkdError`. Anything else is our mistake.

Run: python tests/timm_models.py   (takes 15 minutes; writes docs/timm-models.md)
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import timm
import torch
from torch import Tensor, nn

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


def smallest_models() -> dict[str, str]:
    """The model with the fewest parameters in each module."""
    chosen: dict[str, str] = {}
    for module in timm.list_modules():
        counts = {}
        for name in set(timm.list_models(module=module)) - set(NETWORKS):
            with torch.device("meta"):
                counts[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        if counts:  # else the module is ours
            chosen[module] = min(sorted(counts), key=lambda name: counts[name])
    return chosen


def try_model(module: str, name: str) -> Result:
    torch.manual_seed(0)
    try:
        with torch.device("meta"):
            classifier_of(timm.create_model(name, num_classes=CLASSES))  # before anything is computed
        model, size = smallest_input(name)
        problems = [(method, arguments, try_method(model, size, method, arguments)) for method, arguments in METHODS]
        for method, arguments, problem in problems:
            if problem:
                return Result(module, name, "wrong", f"{method} {arguments}: {problem}")
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


def try_method(model: nn.Module, size: int, method: str, arguments: dict[str, Any]) -> str:
    """Says what is wrong with one step; empty if nothing is."""
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
    if not torch.allclose(result["output"], expected, rtol=1e-3, atol=1e-4):
        return f"the output is {(result['output'] - expected).abs().max().item():.2g} away from the model's own"
    ce = nn.functional.cross_entropy(expected, target[:BATCH])
    if not torch.allclose(result["ce"], ce.detach(), rtol=1e-3, atol=1e-4):
        return f"the cross-entropy is {result['ce'].item():g}, not {ce.item():g}"
    if not all(value.isfinite() for value in result.values() if value.ndim == 0):
        return "a term is not finite"
    head = {id(parameter) for parameter in classifier_of(model).parameters()}
    body = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in head]
    if not any(parameter.grad is not None and parameter.grad.any() for parameter in body[:5]):
        return "no gradient reaches the first layers"
    return ""


def seeded(function: Any) -> Any:
    """Calls it with seeded generators, for dropout, stochastic depth and VOLO's token mixing."""
    torch.manual_seed(1)
    np.random.seed(1)
    result: dict[str, Tensor] | Tensor = function()
    return result


def document(results: list[Result]) -> str:
    supported = [result for result in results if result.status == "supported"]
    lines = [
        "# timm's models",
        "",
        f"Written by `python tests/timm_models.py` with timm {timm.__version__}: the smallest model of each of timm's",
        "model modules takes one training step of `sd_dropout`, `cs_kd` (all pairings) and their composition.",
        f"**{len(supported)} of {len(results)}** are supported: the output is that of the model's own forward, the",
        "loss is that output's, and gradient reaches the first layers. The others are refused with a sentence that",
        f"says why; wrong: {sum(result.status == 'wrong' for result in results)}. `make slow` checks the table.",
        "",
        "| module | model | result |",
        "|---|---|---|",
        *(f"| `{module}` | `{model}` | {status}{f': {reason}' if reason else ''} |"
          for module, model, status, reason in sorted(results, key=lambda r: (r.status == "supported", r.module))),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def documented() -> list[tuple[str, str, str]]:
    """(module, model, status) of the page's table."""
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (\w+)", DOCUMENT.read_text(), flags=re.MULTILINE)
    return [(module, model, status) for module, model, status in rows]


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results = []
    chosen = dict(row[:2] for row in documented()) if DOCUMENT.exists() else {}
    if set(chosen) != set(timm.list_modules()):
        chosen = smallest_models()
    for module, name in chosen.items():
        results.append(try_model(module, name))
        print(*results[-1], flush=True)
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(results))


if __name__ == "__main__":
    main()
