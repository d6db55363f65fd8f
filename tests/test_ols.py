"""Online label smoothing against float64 NumPy written from the paper's definitions."""

import numpy as np
import pytest
from test_numerics import batch, cross_entropy, linear, logits_of, softmax

from skd_plugins.methods import create_method


def soft_entropy(soft: np.ndarray, z: np.ndarray) -> float:
    return float(-np.mean(np.sum(soft * np.log(softmax(z)), axis=1)))


def test_equation_over_two_epochs() -> None:
    model, w, b = linear()
    method = create_method("ols", model, weight=0.3).train()
    sums, counts = np.zeros((5, 5)), np.zeros(5)
    method.begin_epoch(0, 3)
    for seed in (0, 1):
        input, target = batch(40, classes=4, seed=seed)  # no image of the fifth class
        z, y = logits_of(input, w, b), target.numpy()
        out = method(input, target)
        assert out["soft"].item() == pytest.approx(soft_entropy(np.full((40, 5), 0.2), z), rel=1e-4), "uniform at first"
        right = z.argmax(1) == y
        np.add.at(sums, y[right], softmax(z)[right])
        np.add.at(counts, y[right], 1)
    assert counts[:4].all()
    soft_labels = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 0.2)
    method.begin_epoch(1, 3)
    np.testing.assert_allclose(method.soft_labels.numpy(), soft_labels, rtol=1e-4)
    assert not method.sums.any()
    method.eval()
    method(input, target)
    assert not method.counts.any(), "evaluation does not write"
    method.train()

    out = method(input, target)
    soft = soft_entropy(soft_labels[y], z)
    assert out["soft"].item() == pytest.approx(soft, rel=1e-4)
    assert out["loss"].item() == pytest.approx(0.7 * cross_entropy(z, y) + 0.3 * soft, rel=1e-4)
    out["loss"].backward()
    d = (softmax(z) - 0.7 * np.eye(5)[y] - 0.3 * soft_labels[y]) / 40
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ input.flatten(1).numpy(), rtol=1e-3, atol=1e-5)
