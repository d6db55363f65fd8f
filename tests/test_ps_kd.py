"""PS-KD against float64 NumPy written from the paper's equation, and the network it keeps."""

import numpy as np
import pytest
import torch
from test_methods import make_batch, make_task
from test_numerics import batch, cross_entropy, linear, softmax

from skd_plugins.methods import create_method


def test_equation() -> None:
    model, w, b = linear()
    method = create_method("ps_kd", model, alpha=0.6).train()
    input, target = batch(6)
    y, f = target.numpy(), input.flatten(1).double().numpy()
    before = f @ w.T + b
    method.begin_epoch(0, 10)
    assert method(input, target)["loss"].item() == pytest.approx(cross_entropy(before, y), rel=1e-5)
    method.begin_epoch(4, 10)  # keeps the network as it is; then it changes
    with torch.no_grad():
        model.fc.weight.add_(torch.randn(model.fc.weight.shape, generator=torch.Generator().manual_seed(3)))
    z = f @ model.fc.weight.detach().double().numpy().T + b
    out = method(input, target)
    alpha, p = 0.6 * 5 / 10, softmax(before)
    soft = float(-np.mean(np.sum(p * np.log(softmax(z)), axis=1)))
    assert out["alpha"].item() == pytest.approx(alpha)
    assert out["soft"].item() == pytest.approx(soft, rel=1e-4)
    assert out["loss"].item() == pytest.approx((1 - alpha) * cross_entropy(z, y) + alpha * soft, rel=1e-4)
    out["loss"].backward()
    d = (softmax(z) - (1 - alpha) * np.eye(5)[y] - alpha * p) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ f, rtol=1e-3, atol=1e-5)


def test_the_network_before_is_kept_for_an_epoch_and_through_a_checkpoint() -> None:
    task = make_task("ps_kd")  # epoch 1 has begun
    kept = {name: value.clone() for name, value in task.method.before.state_dict().items()}
    optimizer = torch.optim.SGD(task.method.parameters(), lr=0.1)
    task(*make_batch(task))["loss"].backward()
    optimizer.step()
    other = make_task("ps_kd")
    state = task.get_checkpoint_state()
    other.load_checkpoint_state(state["state_dict"], state["task_state"])
    for method in (task.method, other.method):
        method.begin_epoch(1, 4)  # resumed within the epoch: nothing is kept anew
        for name, value in method.before.state_dict().items():
            assert torch.equal(value, kept[name]), name
        assert not torch.equal(method.model.state_dict()["fc.weight"], kept["fc.weight"])
        method.begin_epoch(2, 4)
        assert torch.equal(method.before.state_dict()["fc.weight"], method.model.state_dict()["fc.weight"])
        assert method.alpha_now.item() == pytest.approx(0.8 * 3 / 4)
