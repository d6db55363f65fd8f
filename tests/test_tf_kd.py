"""Tf-KD against float64 NumPy written from the paper's definitions."""

import numpy as np
import pytest
import torch
from test_numerics import batch, cross_entropy, kl, linear, logits_of, softmax

from skd_plugins.losses import tf_kd_loss
from skd_plugins.methods import create_method


def test_equation() -> None:
    model, w, b = linear()
    input, target = batch(6)
    z, y = logits_of(input, w, b), target.numpy()
    q = np.full((6, 5), 0.1 / 4)
    q[np.arange(6), y] = 0.9
    designed = softmax(q / 2)
    method = create_method("tf_kd", model, alpha=0.3, weight=5.0, temperature=2.0, correct=0.9)
    out = method(input, target)
    term = kl(designed, softmax(z))
    assert out["kd"].item() == pytest.approx(term, rel=1e-4)
    assert out["loss"].item() == pytest.approx(0.7 * cross_entropy(z, y) + 0.3 * 5 * term, rel=1e-4)
    out["loss"].backward()
    d = (0.7 * (softmax(z) - np.eye(5)[y]) + 0.3 * 5 * (softmax(z) - designed)) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ input.flatten(1).numpy(), rtol=1e-3, atol=1e-5)


def test_mixed_labels_mix_the_designed_teacher() -> None:
    logits = torch.randn(1, 4, dtype=torch.float64)
    mixed = torch.tensor([[0.75, 0.25, 0.0, 0.0]], dtype=torch.float64)
    q = np.array([[0.75 * 0.97 + 0.25 * 0.01, 0.25 * 0.97 + 0.75 * 0.01, 0.01, 0.01]])
    expected = kl(softmax(q / 20), softmax(logits.numpy()))
    assert tf_kd_loss(logits, mixed, correct=0.97).item() == pytest.approx(expected, rel=1e-12)
