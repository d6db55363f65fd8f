"""Attacks: exact budgets in pixel units, losses that rise, independence of the batch, traces that are not left."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import predict
from skd_plugins.evaluation.attacks import FGSM, PGD, input_gradient

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
quick = settings(max_examples=30, deadline=None, derandomize=True)


class Net(nn.Module):
    """Smooth, in float64, with BatchNorm and dropout, which evaluation mode has to quieten."""

    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten()
        )
        self.fc = nn.Linear(4 * 6 * 6, classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.double()

    def forward(self, input: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(input))
        return logits


def batch(count: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Normalised images of whole grey levels, black and white among them, and targets."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, 6, 6), generator=generator)
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    return normalised(levels.double() / 255), torch.arange(count) % 5


_MEAN, _STD = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - _MEAN) / _STD


def pixels_of(input: Tensor) -> Tensor:
    """Without the package's own conversion, and without its clipping."""
    return input * _STD + _MEAN


def losses(model: Net, input: Tensor, target: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(input), target, reduction="none")


@quick
@given(st.sampled_from([1 / 255, 4 / 255, 8 / 255, 0.2, 1.0]), st.integers(0, 5))
def test_fgsm_moves_each_pixel_by_exactly_eps_unless_it_hits_the_range(eps: float, seed: int) -> None:
    input, target = batch(seed=seed)
    before, after = pixels_of(input), pixels_of(FGSM(eps=eps, mean=MEAN, std=STD)(Net(seed), input, target))
    assert after.min() >= -1e-12
    assert after.max() <= 1 + 1e-12
    change = (after - before).abs()
    assert change.max() <= eps + 1e-12
    free = (after > 1e-12) & (after < 1 - 1e-12)
    torch.testing.assert_close(change[free], torch.full_like(change[free], eps), atol=1e-12, rtol=0)
    clipped = ~free & (change < eps - 1e-12)
    distance = torch.minimum(before, 1 - before)[clipped]
    assert torch.all(change[clipped] <= torch.maximum(distance, 1 - distance) + 1e-12)
    assert clipped.any(), "black and white pixels are in every image"


@quick
@given(st.sampled_from([1 / 255, 8 / 255, 0.2]), st.integers(1, 4), st.sampled_from([0, 3]))
def test_pgd_stays_in_the_budget_and_the_range(eps: float, steps: int, seed: int) -> None:
    input, target = batch()
    attack = PGD(eps=eps, steps=steps, seed=seed, mean=MEAN, std=STD)
    after = pixels_of(attack(Net(), input, target))
    change = (after - pixels_of(input)).abs()
    assert eps / 4 - 1e-12 <= change.max() <= eps + 1e-12
    assert after.min() >= -1e-12
    assert after.max() <= 1 + 1e-12


def test_budgets_that_say_the_result() -> None:
    input, target = batch()
    kinds = {"mean": MEAN, "std": STD}
    for attack, expected in [
        (FGSM(eps=0, **kinds), input),
        (PGD(eps=0, **kinds), input),
        # A step of the whole range ends at the budget's edge, wherever it began.
        (PGD(eps=1e-6, steps=1, step_size=1, **kinds), FGSM(eps=1e-6, **kinds)(Net(), input, target)),
    ]:
        torch.testing.assert_close(attack(Net(), input, target), expected, atol=1e-12, rtol=0)
    after = FGSM(eps=8 / 255, **kinds)(Net().float(), input.float(), target)
    assert after.dtype == torch.float32
    assert (pixels_of(after.double()) - pixels_of(input)).abs().max() <= 8 / 255 + 5e-7


def test_losses_rise_and_more_steps_raise_them_further() -> None:
    input, target = batch(20)
    model = Net()
    clean = losses(model, input, target)
    small = losses(model, FGSM(eps=1e-3, mean=MEAN, std=STD)(model, input, target), target)
    assert torch.all(small > clean), "to first order FGSM raises every image's loss"
    fgsm = losses(model, FGSM(eps=0.1, mean=MEAN, std=STD)(model, input, target), target)
    pgd = losses(model, PGD(eps=0.1, mean=MEAN, std=STD)(model, input, target), target)
    assert clean.mean() < fgsm.mean() < pgd.mean()


def test_input_gradient_is_the_finite_difference() -> None:
    input, target = batch(2)
    model = Net()
    gradient = input_gradient(model, input, lambda logits: F.cross_entropy(logits, target, reduction="sum"))
    for place in [(0, 0, 2, 3), (1, 2, 5, 5), (0, 1, 4, 0)]:
        step = torch.zeros_like(input)
        step[place] = 1e-6
        difference = (losses(model, input + step, target) - losses(model, input - step, target)).sum() / 2e-6
        assert float(gradient[place]) == pytest.approx(float(difference), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "attack",
    [partial(FGSM, eps=0.1), partial(FGSM, eps=0.2, legacy=True), partial(PGD, eps=0.1, steps=3)],
    ids=["fgsm", "legacy", "pgd"],
)
def test_neither_batch_nor_mode_nor_order_matters_and_nothing_is_left(attack: partial[FGSM | PGD]) -> None:
    attack = attack(mean=MEAN, std=STD)
    input, target = batch(7)
    model = Net().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = attack(model, input, target)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"{name}: running statistics moved"
    single = torch.cat([attack(model, input[i : i + 1], target[i : i + 1]) for i in reversed(range(7))]).flip(0)
    torch.testing.assert_close(whole, single, atol=1e-12, rtol=0)
    assert not whole.requires_grad
    # Inside predict, which has its own modes:
    result = predict(model, [(input[:4], target[:4]), (input[4:], target[4:])], perturb=attack)
    model.eval()
    torch.testing.assert_close(result.logits.double(), model(whole).detach(), atol=1e-5, rtol=1e-5)


def test_every_image_has_a_random_start_of_its_own_that_fills_the_budget() -> None:
    """Without gradients a network leaves the images where they started."""
    model = Net()
    nn.init.zeros_(model.fc.weight)
    input, target = normalised(torch.stack([torch.full((3, 6, 6), x) for x in (0.4, 0.6)]).double()), torch.arange(2)
    one, same, other = (PGD(eps=0.1, steps=3, seed=s, mean=MEAN, std=STD)(model, input, target) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    start = pixels_of(one) - pixels_of(input)
    assert start.abs().max() <= 0.1 + 1e-12
    assert start.abs().mean() == pytest.approx(0.05, abs=0.005)
    assert not torch.allclose(start[0], start[1])


def test_legacy_is_the_authors_script_step_by_step() -> None:
    """ART's FastGradientMethod in NumPy, value by value: predicted labels, clip to (0, 1), then project to eps."""
    eps, model = 0.2, Net().eval()
    input, target = batch(5)
    predicted = model(input).argmax(1)
    assert not torch.equal(predicted, target), "or the labels could not be told apart"
    gradient = input_gradient(model, input, lambda logits: F.cross_entropy(logits, predicted, reduction="sum")).numpy()
    expected = np.empty_like(gradient)
    for place, value in np.ndenumerate(input.numpy()):
        stepped = min(max(value + eps * np.sign(gradient[place]), 0.0), 1.0)
        expected[place] = value + min(max(stepped - value, -eps), eps)
    result = FGSM(eps=eps, legacy=True, mean=MEAN, std=STD)(model, input, target)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)
    dark, bright = input < -eps, input > 1 + eps
    assert dark.any()
    assert bright.any()
    torch.testing.assert_close(result[dark], input[dark] + eps)
    torch.testing.assert_close(result[bright], input[bright] - eps)


@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_a_budget_in_grey_levels_is_refused(attack: type[FGSM | PGD]) -> None:
    with pytest.raises(SkdError, match="8/255"):
        attack(eps=8, mean=MEAN, std=STD)
    FGSM(eps=8, legacy=True, mean=MEAN, std=STD)  # normalised units have no such bound
