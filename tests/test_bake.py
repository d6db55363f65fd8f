"""BAKE against float64 NumPy written from the paper's definitions."""

import numpy as np
import pytest
import torch
from test_numerics import batch, cross_entropy, kl, linear, logits_of, softmax

from skd_plugins.methods import create_method
from skd_plugins.methods.bake import ensembled


def propagated(f: np.ndarray, p: np.ndarray, omega: float, times: int) -> np.ndarray:
    """``q <- omega * A q + (1 - omega) * p``, whose limit is the method's closed form."""
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    a = np.exp(f @ f.T) * (1 - np.eye(len(f)))
    a /= a.sum(axis=1, keepdims=True)
    q = p
    for _ in range(times):
        q = omega * a @ q + (1 - omega) * p
    return q


@pytest.mark.parametrize("pairing", ["sampled", "batch"])
def test_equation(pairing: str) -> None:
    model, w, b = linear()
    input, target = batch(6)
    if pairing == "sampled":
        input, target = torch.cat([input, batch(6, seed=1)[0]]), torch.cat([target, target])
    f, z, y = input.flatten(1).double().numpy(), logits_of(input, w, b), target.numpy()
    method = create_method("bake", model, weight=2.0, temperature=3.0, omega=0.6, pairing=pairing)
    out = method(input, target)
    q = propagated(f, softmax(z / 3), 0.6, 200)
    kd = 9 * kl(q, softmax(z / 3))
    assert out["kd"].item() == pytest.approx(kd, rel=1e-3)
    assert out["loss"].item() == pytest.approx(cross_entropy(z, y) + 2 * kd, rel=1e-4)
    np.testing.assert_allclose(out["output"].detach().numpy(), z[:6], rtol=1e-4, atol=1e-5)
    out["loss"].backward()
    d = (softmax(z) - np.eye(5)[y] + 2 * 3 * (softmax(z / 3) - q)) / len(z)
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ f, rtol=1e-3, atol=1e-5)


def test_targets_are_probabilities_even_if_an_image_is_certain() -> None:
    p = torch.eye(4).repeat(2, 1)  # zeros in p
    q = ensembled(torch.randn(8, 3), p, 0.9)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(8))
    assert (q > 0).all()


def test_the_ensemble_is_float32_under_autocast() -> None:
    features, p = torch.randn(8, 64), torch.randn(8, 5).softmax(dim=1)
    exact = ensembled(features.double(), p.double(), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = ensembled(features, p, 0.5)
    torch.testing.assert_close(low.double(), exact, rtol=1e-5, atol=1e-6)
