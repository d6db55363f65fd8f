"""DKS against float64 NumPy written from the paper's definitions."""

import numpy as np
import pytest
import torch
from test_numerics import Staged, batch, cross_entropy, kl, softmax

from skd_plugins.methods import create_method


def test_equation() -> None:
    torch.manual_seed(0)
    model = Staged()
    method = create_method("dks", model, weight=0.5).train()
    input, target = torch.randn(6, 3, 16, 16), batch(6)[1]
    y = target.numpy()
    with torch.no_grad():
        maps, every = input, [model(input).double().numpy()]
        for number, branch in enumerate(method.branches, 1):
            maps = getattr(model, f"layer{number}")(maps)
            every.append(branch(maps)[1].double().numpy())  # the branches are tested with byot
    ces = [cross_entropy(z, y) for z in every]
    p = [softmax(z) for z in every]
    kd = sum(kl(p[i], p[j]) for i in range(4) for j in range(4) if i != j)
    out = method(input, target)
    for key, value in {"ce": ces[0], "branch_ce": sum(ces[1:]), "kd": kd, "loss": sum(ces) + 0.5 * kd}.items():
        assert out[key].item() == pytest.approx(value, rel=1e-4), key
    out["loss"].backward()
    # Each classifier is pulled to the three others: its own p minus theirs.
    d = p[0] - np.eye(5)[y] + 0.5 * (3 * p[0] - p[1] - p[2] - p[3])
    f = input.double().numpy().mean((2, 3))
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), (d / 6).T @ f, rtol=1e-3, atol=1e-6)
