"""USKD against float64 NumPy written from its definitions."""

import numpy as np
import pytest
import torch
from test_numerics import Staged, batch, cross_entropy, softmax

from skd_plugins.methods import create_method


def test_equation() -> None:
    torch.manual_seed(0)
    model = Staged()
    method = create_method("uskd", model, target_weight=0.5, others_weight=0.2, weak_weight=0.3)
    input, target = torch.randn(6, 3, 16, 16).mul(4), batch(6)[1]
    y, rows = target.numpy(), np.arange(6)
    w, b = (p.detach().double().numpy() for p in (model.fc.weight, model.fc.bias))
    v, c = (p.detach().double().numpy() for p in (method.weak.weight, method.weak.bias))
    f = input.double().numpy().mean((2, 3))  # all stages only average
    z, weak = f @ w.T + b, f @ v.T + c
    p, own = softmax(z), softmax(z)[rows, y]
    soft = own**2 + 1 - np.mean(own**2)
    loss_target = float(np.mean(-soft * np.log(own)))
    smooth = 0.9 * np.eye(5)[y] + 0.1 / 5
    loss_weak = float(-np.mean(np.sum(smooth * np.log(softmax(weak)), axis=1)))
    scores = softmax(weak) / (1 - softmax(weak)[rows, y])[:, None] + np.log(p) / (1 - np.log(own))[:, None]
    d = (1 + 0.5 * soft)[:, None] * (p - np.eye(5)[y])
    others = 0.0
    for row in range(6):
        rest = [k for k in range(5) if k != y[row]]
        q = np.array([1 / (1 + (scores[row] > scores[row, k]).sum()) for k in rest])
        q /= q.sum()
        among = softmax(z[row : row + 1, rest])[0]
        others -= float(np.sum(q * np.log(among))) / 6
        d[row, rest] += 0.2 * (among - q)
    loss = cross_entropy(z, y) + 0.5 * loss_target + 0.2 * others + 0.3 * loss_weak
    out = method(input, target)
    for key, value in {"target": loss_target, "others": others, "weak": loss_weak, "loss": loss}.items():
        assert out[key].item() == pytest.approx(value, rel=1e-4), key
    out["loss"].backward()
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), (d / 6).T @ f, rtol=1e-3, atol=1e-6)
    d_weak = 0.3 * (softmax(weak) - smooth) / 6
    np.testing.assert_allclose(method.weak.weight.grad.numpy(), d_weak.T @ f, rtol=1e-3, atol=1e-6)
