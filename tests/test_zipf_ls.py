"""Zipf's label smoothing against float64 NumPy written from the paper's definitions."""

import numpy as np
import pytest
import timm
import torch
from test_methods import make_task
from test_numerics import Staged, batch, cross_entropy, softmax

from skd_plugins import SkdError, create_task
from skd_plugins.methods import create_method


@pytest.mark.parametrize("upsample", [1, 2])
def test_equation(upsample: int) -> None:
    torch.manual_seed(0)
    model = Staged()
    w, b = (p.detach().double().numpy() for p in (model.fc.weight, model.fc.bias))
    input, target = torch.randn(6, 3, 64, 64), batch(6)[1]
    y = target.numpy()
    maps = input.double().numpy().reshape(6, 3, 4, 16, 4, 16).mean((3, 5))  # the last stage's, 4 x 4
    z = maps.mean((2, 3)) @ w.T + b
    method = create_method("zipf_ls", model, weight=2.0, upsample=upsample)
    out = method(input, target)
    if upsample == 2:
        maps = torch.nn.functional.interpolate(torch.tensor(maps), scale_factor=2, mode="bilinear").numpy()
    choices = (np.einsum("bchw,kc->bhwk", maps, w) + b).argmax(3).reshape(6, -1)
    zipf, d = 0.0, softmax(z) - np.eye(5)[y]
    for row in range(6):
        votes = np.bincount(choices[row], minlength=5)
        assert votes.sum() == 16 * upsample**2
        rest = [k for k in range(5) if k != y[row]]
        q = np.array([1 / (1 + (votes > votes[k]).sum()) for k in rest])
        q /= q.sum()
        p = softmax(z[row : row + 1, rest])[0]
        zipf += float(np.sum(q * np.log(q / p))) / 6
        d[row, rest] += 2 * (p - q)
    assert out["zipf"].item() == pytest.approx(zipf, rel=1e-4)
    assert out["loss"].item() == pytest.approx(cross_entropy(z, y) + 2 * zipf, rel=1e-4)
    out["loss"].backward()
    features = input.double().numpy().mean((2, 3))
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), (d / 6).T @ features, rtol=1e-3, atol=1e-6)


def test_dense_logits_are_the_networks_at_every_position() -> None:
    """With BatchNorm and ReLU between the last stage and the classifier."""
    task = make_task("zipf_ls", "densenet")
    model, seen = task.method.model, []
    model.get_submodule("features.denseblock4").register_forward_hook(lambda _, args, output: seen.append(output))
    torch.manual_seed(5)
    output = model(torch.randn(4, 3, 64, 64))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    dense = task.method._dense_logits(seen[0])
    assert dense.shape == (4, seen[0].shape[2] ** 2, 5)
    assert dense.shape[1] > 1
    torch.testing.assert_close(dense.mean(1), output, rtol=1e-4, atol=1e-5)  # after the ReLU all is linear
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items()), "no running statistics"


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(SkdError, match="not maps|has no four stages"):
        create_task("zipf_ls", timm.create_model("test_vit", num_classes=5))
