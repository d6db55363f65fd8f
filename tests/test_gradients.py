"""Gradient analysis against the paper's lemma and sums written out, in float64."""

import itertools
import math

import pytest
import torch
from test_attacks import Net
from torch import Tensor, nn

from skd_plugins import create_model
from skd_plugins.common.errors import SkdError
from skd_plugins.papers.runs.gradients import DropoutPair, check_assumptions, kl_gradients, mean_over

T, DROP = 3.0, 0.5  # the defaults
CLASSIFIER = DropoutPair(of="classifier")


def network() -> Net:
    """With a frozen parameter, and one that nothing depends on."""
    model = Net(classes=4)
    model.body[1].bias.requires_grad_(False)
    model.unused = nn.Parameter(torch.zeros(3))
    return model


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(count: int, seed: int = 0) -> Tensor:
    return (torch.rand(2, count, 144, generator=torch.Generator().manual_seed(seed)) >= DROP).double() / (1 - DROP)


def probabilities(model: Net, input: Tensor, seed: int = 0) -> Tensor:
    """p and q, ``[2, B, C]``, written out."""
    model.eval()
    features = model.body(input)
    return torch.stack([(model.fc(features * mask) / T).softmax(1) for mask in masks(len(input), seed)])


def trained(model: Net) -> list[nn.Parameter]:
    return [*model.body[0].parameters(), model.body[1].weight, *model.fc.parameters()]


def lemma_1(model: Net, input: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 8 and 9: sums of coefficients times the gradients of the probabilities, times T^2 over B."""
    p, q = probabilities(model, input)
    constants = [p.detach(), q.detach()]
    sums = [
        (1 - constants[0] / constants[1], 1 - constants[1] / constants[0]),  # of grad q and grad p
        ((constants[1] / constants[0]).log(), (constants[0] / constants[1]).log()),
    ]
    vectors = []
    for of_q, of_p in sums:
        gradients = torch.autograd.grad((of_q * q + of_p * p).sum(), trained(model), retain_graph=True)
        vectors.append(torch.cat([g.flatten() for g in gradients]) * T**2 / len(input))
    return vectors[0], vectors[1]


def test_gradients_are_those_of_lemma_1() -> None:
    model, input = network(), images()
    forward, reverse = lemma_1(model, input)
    result = kl_gradients(model, input)
    assert result["l1_forward"] == pytest.approx(float(forward.abs().sum()), rel=1e-9)
    assert result["l1_reverse"] == pytest.approx(float(reverse.abs().sum()), rel=1e-9)
    assert result["cosine"] == pytest.approx(float(forward @ reverse / forward.norm() / reverse.norm()), rel=1e-9)
    assert -1 < result["cosine"] < 1
    assert result["l1_forward"] != pytest.approx(result["l1_reverse"], rel=1e-3)


def slow_assumptions(model: Net, input: Tensor) -> dict[str, float]:
    """One pair at a time."""
    values = probabilities(model, input)
    norms = torch.zeros_like(values)
    for place in itertools.product(*map(range, values.shape)):
        parts = torch.autograd.grad(values[place], trained(model), retain_graph=True)
        norms[place] = sum(part.abs().sum() for part in parts)
    first, second, rs, r1s = 0, 0, [], []
    for p, q, gp, gq in zip(*values.flatten(1).tolist(), *norms.flatten(1).tolist(), strict=True):
        first += (p / q - 1) * (gp / gq - 1) > 0
        rho = max(gp / gq, gq / gp)
        rs.append(math.log(max(p / q, q / p)))
        r1s.append(abs(math.log(rho) + math.log(math.log(rho + (math.e - 1)))))
        second += rs[-1] <= r1s[-1]
    count = len(rs)
    return {
        "p_assumption_1": first / count, "p_assumption_2": second / count, "r": sum(rs) / count,
        "r_1": sum(r1s) / count, "pairs": count,
    }  # fmt: skip


def test_assumptions_pair_by_pair() -> None:
    model, input = network(), images(3)
    result = check_assumptions(model, input)
    assert result == pytest.approx(slow_assumptions(model, input), rel=1e-9)
    assert result["pairs"] == 12
    assert 0 < result["p_assumption_1"] < 1


def test_classifier_gradients_have_a_closed_form() -> None:
    """``|grad p_i| = p_i / T * sum_j |[i = j] - p_j| * (|f|_1 + 1)`` for weight and bias of the last layer."""
    model, input = network(), images(4)
    p, q = probabilities(model, input).detach()
    features = model.body(input).detach() * masks(4)
    size = features.abs().sum(-1, keepdim=True) + 1
    norm_p, norm_q = (x / T * 2 * (1 - x) * s for x, s in zip((p, q), size, strict=True))
    rho = torch.maximum(norm_p / norm_q, norm_q / norm_p)
    result = check_assumptions(model, input, CLASSIFIER)
    assert result["r_1"] == pytest.approx(float((rho.log() + (rho + math.e - 1).log().log()).abs().mean()), rel=1e-9)
    assert result["p_assumption_1"] == float(((p / q - 1) * (norm_p / norm_q - 1) > 0).double().mean())
    both = kl_gradients(model, input)
    assert kl_gradients(model, input, CLASSIFIER)["l1_forward"] < both["l1_forward"]


def test_an_image_does_not_depend_on_its_batch_and_nothing_is_left() -> None:
    model, input = network().train(), images(4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    doubled = torch.cat([input[:1], input[:1]])
    check_assumptions(model, doubled)
    kl_gradients(model, doubled)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    one = kl_gradients(model, input, DropoutPair(seed=1))
    assert one == kl_gradients(model, input, DropoutPair(seed=1))
    assert one != kl_gradients(model, input, DropoutPair(seed=2)), "the masks are drawn from the seed"


def test_means_over_a_loader() -> None:
    model = network()
    batches = [(images(count, seed), torch.zeros(count)) for count, seed in ((3, 1), (1, 2), (2, 3))]
    inputs = [(input, DropoutPair(seed=5 + number)) for number, (input, _) in enumerate(batches)]
    parts = [kl_gradients(model, *one) for one in inputs]
    result = mean_over(kl_gradients, model, batches, DropoutPair(seed=5), batches=2)
    for name in ("cosine", "l1_forward", "l1_reverse"):
        assert result[name] == pytest.approx((parts[0][name] + parts[1][name]) / 2)
    checks = [check_assumptions(model, *one) for one in inputs]
    total = mean_over(check_assumptions, model, batches, DropoutPair(seed=5))
    assert total["pairs"] == 24
    for name in ("p_assumption_1", "p_assumption_2", "r", "r_1"):
        assert total[name] == pytest.approx(sum(c[name] * c["pairs"] for c in checks) / 24)


def test_a_network_from_timm() -> None:
    model = create_model("resnet18_cifar", num_classes=3)
    result = kl_gradients(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert result["l1_reverse"] > 0
    assert -1 <= result["cosine"] <= 1


def test_a_network_that_diverged() -> None:
    model = network()
    nn.init.constant_(model.fc.weight, math.nan)
    with pytest.raises(SkdError, match="no probability"):
        check_assumptions(model, images())
