"""Every loss against float64 NumPy, written from the papers' equations."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skd_plugins.losses import kl_divergence, next_of_class, self_distillation
from skd_plugins.methods import create_method, list_methods
from skd_plugins.networks.classifiers import CosineClassifier

CASES = [(4, 3, 1.0), (8, 10, 4.0), (5, 100, 3.0), (2, 2, 0.5)]


def softmax(z: np.ndarray) -> np.ndarray:
    """Section 2 of CS-KD: exp(f_y / T) / sum_i exp(f_i / T), for logits already divided by T."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over the batch of sum_y p(y) log(p(y) / q(y))."""
    return float(np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1)))


def cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    return float(-np.mean(np.log(softmax(z)[np.arange(len(y)), y])))


def random_logits(batch: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=4.0, size=(batch, classes))


@pytest.mark.parametrize(("batch", "classes", "temperature"), CASES)
def test_kl_divergence(batch: int, classes: int, temperature: float) -> None:
    target, z = random_logits(batch, classes, 0), random_logits(batch, classes, 1)
    expected = temperature**2 * kl(softmax(target / temperature), softmax(z / temperature))
    got = kl_divergence(torch.tensor(target), torch.tensor(z), temperature)
    assert got.item() == pytest.approx(expected, rel=1e-5)
    assert kl_divergence(torch.tensor(z), torch.tensor(z), temperature).item() == 0


@pytest.mark.parametrize(("batch", "classes", "temperature"), CASES)
def test_self_distillation_eq_3_and_its_directions(batch: int, classes: int, temperature: float) -> None:
    a, b = random_logits(batch, classes, 2), random_logits(batch, classes, 3)
    p, q = softmax(a / temperature), softmax(b / temperature)
    expected = temperature**2 * (kl(p, q) + kl(q, p))
    for direction in ("both", "forward", "reverse"):
        u, v = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
        loss = self_distillation(u, v, temperature, direction)
        assert loss.item() == pytest.approx(expected, rel=1e-5), "the value is the same, only gradients differ"
        loss.backward()
        # d KL(p || q) / dv = (q - p) / T; d KL(p || q) / du = p * (log(p / q) - KL(p || q)) / T, each over B.
        per_row = np.sum(p * np.log(p / q), axis=1, keepdims=True)
        back_row = np.sum(q * np.log(q / p), axis=1, keepdims=True)
        first = {"u": p * (np.log(p / q) - per_row), "v": q * (np.log(q / p) - back_row)}  # through the first argument
        second = {"u": p - q, "v": q - p}  # through the second
        for name, leaf in (("u", u), ("v", v)):
            parts = {"both": first[name] + second[name], "forward": second[name], "reverse": first[name]}
            assert leaf.grad is not None
            np.testing.assert_allclose(leaf.grad.numpy(), parts[direction] * temperature / batch, rtol=1e-4, atol=1e-6)


class Linear(nn.Module):
    """A network without state, so that NumPy can compute it: features are the pixels, logits are linear."""

    num_features = 12

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def linear(classes: int = 5) -> tuple[Linear, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    model = Linear(classes)
    return model, model.fc.weight.detach().double().numpy(), model.fc.bias.detach().double().numpy()


def batch(size: int, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(size, 3, 2, 2, generator=generator)
    return input, torch.randint(0, classes, (size,), generator=generator)


def logits_of(input: torch.Tensor, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return input.flatten(1).double().numpy() @ w.T + b


def test_cross_entropy_with_indices_smoothing_and_probabilities() -> None:
    model, w, b = linear()
    input, target = batch(6)
    z, y = logits_of(input, w, b), target.numpy()
    assert create_method("ce", model)(input, target)["loss"].item() == pytest.approx(cross_entropy(z, y), rel=1e-5)

    smooth = 0.9 * np.eye(5)[y] + 0.1 / 5
    expected = float(-np.mean(np.sum(smooth * np.log(softmax(z)), axis=1)))
    smoothed = create_method("ce", model, nn.CrossEntropyLoss(label_smoothing=0.1))(input, target)
    assert smoothed["loss"].item() == pytest.approx(expected, rel=1e-5)
    soft = create_method("ce", model)(input, torch.tensor(smooth, dtype=torch.float32))
    assert soft["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_cs_kd_sampled_is_eq_1() -> None:
    model, w, b = linear()
    anchors, target = batch(6)
    pairs, _ = batch(6, seed=1)
    z, z_pair, y = logits_of(anchors, w, b), logits_of(pairs, w, b), target.numpy()
    method = create_method("cs_kd", model, weight=2.0, temperature=4.0)
    out = method(torch.cat([anchors, pairs]), torch.cat([target, target]))
    term = 16 * kl(softmax(z_pair / 4), softmax(z / 4))
    assert out["ce"].item() == pytest.approx(cross_entropy(z, y), rel=1e-5)
    assert out["kd"].item() == pytest.approx(term, rel=1e-4)
    assert out["loss"].item() == pytest.approx(cross_entropy(z, y) + 2 * term, rel=1e-4)
    assert out["output"].shape == (6, 5)

    out["loss"].backward()
    # dL/dz: cross-entropy, and weight * T * (softmax(z / T) - softmax(z_pair / T)); nothing from the pair's side.
    d = (softmax(z) - np.eye(5)[y] + 2 * 4 * (softmax(z / 4) - softmax(z_pair / 4))) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ anchors.flatten(1).numpy(), rtol=1e-3, atol=1e-5)


def test_cs_kd_batch_takes_the_next_image_of_the_class() -> None:
    model, w, b = linear()
    input, _ = batch(6)
    target = torch.tensor([0, 1, 0, 2, 1, 0])
    partner, has = next_of_class(target)
    assert partner.tolist() == [2, 4, 5, 3, 1, 0]
    assert has.tolist() == [True, True, True, False, True, True]
    z = logits_of(input, w, b)
    out = create_method("cs_kd", model, pairing="batch", temperature=2.0)(input, target)
    rows = [row for row in range(6) if row != 3]
    p, q = softmax(z[partner.numpy()[rows]] / 2), softmax(z[rows] / 2)
    assert out["kd"].item() == pytest.approx(4 * kl(p, q) * 5 / 6, rel=1e-4), "the lonely image counts, with no term"


def test_cs_kd_bank_keeps_the_last_logits_of_each_class() -> None:
    model, w, b = linear()
    method = create_method("cs_kd", model, pairing="bank", temperature=4.0).train()
    first, target = batch(4)[0], torch.tensor([1, 3, 1, 0])
    out = method(first, target)
    assert out["kd"].item() == 0, "the first visit adds no term"
    assert method.bank.filled.tolist() == [True, True, False, True, False]
    z1 = logits_of(first, w, b)
    np.testing.assert_allclose(method.bank.logits[1].numpy(), z1[2], rtol=1e-4, atol=1e-5)  # the later of two

    second, target2 = batch(3, seed=5)[0], torch.tensor([1, 2, 0])
    z2 = logits_of(second, w, b)
    out = method(second, target2)
    p = softmax(np.stack([z1[2], z2[1], z1[3]]) / 4)  # class 2 is new: its own prediction, no divergence
    assert out["kd"].item() == pytest.approx(16 * kl(p, softmax(z2 / 4)), rel=1e-4)
    method.eval()
    before = method.bank.logits.clone()
    method(first, target)
    assert torch.equal(method.bank.logits, before), "evaluation does not write"


@pytest.mark.parametrize(("base", "samples"), [("ce", 2), ("cs_kd", 2), ("ce", 4)])
def test_sd_dropout_is_eq_4_and_eq_5(base: str, samples: int) -> None:
    """Two samples: the sum of both directions. More: twice the mean over their ordered pairs."""
    model, w, b = linear()
    anchors, target = batch(6)
    pairs, _ = batch(6, seed=1)
    input, targets = (anchors, target) if base == "ce" else (torch.cat([anchors, pairs]), torch.cat([target, target]))
    method = create_method("sd_dropout", model, base=base, weight=0.5, drop_rate=0.3, samples=samples)
    torch.manual_seed(7)
    out = method(input, targets)
    torch.manual_seed(7)  # the same masks, inverted scaling
    f = anchors.flatten(1)
    masks = [torch.nn.functional.dropout(torch.ones_like(f), 0.3).double().numpy() for _ in range(samples)]
    assert all(set(np.unique(mask.round(5))) == {0.0, round(1 / 0.7, 5)} for mask in masks)
    f = f.double().numpy()
    p = [softmax(((f * mask) @ w.T + b) / 3) for mask in masks]
    sdd = 9 * 2 * np.mean([kl(one, other) for one, other in permutations(p, 2)])
    expected = cross_entropy(logits_of(anchors, w, b), target.numpy()) + 0.5 * sdd
    if base == "cs_kd":
        expected += 16 * kl(softmax(logits_of(pairs, w, b) / 4), softmax(logits_of(anchors, w, b) / 4))
    assert out["sdd"].item() == pytest.approx(sdd, rel=1e-4)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(out["output"].detach().numpy(), logits_of(anchors, w, b), rtol=1e-4, atol=1e-5)


def test_label_smoothing() -> None:
    model, w, b = linear()
    input, target = batch(6)
    z, y = logits_of(input, w, b), target.numpy()
    q = 0.8 * np.eye(5)[y] + 0.2 / 5
    expected = float(-np.mean(np.sum(q * np.log(softmax(z)), axis=1)))
    out = create_method("label_smoothing", model, label_smoothing=0.2)(input, target)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-5)
    default = 0.9 * np.eye(5)[y] + 0.1 / 5
    expected = float(-np.mean(np.sum(default * np.log(softmax(z)), axis=1)))
    assert create_method("label_smoothing", model)(input, target)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_max_entropy() -> None:
    model, w, b = linear()
    input, target = batch(6)
    z, y = logits_of(input, w, b), target.numpy()
    p = softmax(z)
    entropy = float(-np.mean(np.sum(p * np.log(p), axis=1)))
    out = create_method("max_entropy", model, weight=0.7)(input, target)
    assert out["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert out["loss"].item() == pytest.approx(cross_entropy(z, y) - 0.7 * entropy, rel=1e-5)


def test_virtual_softmax() -> None:
    model, w, b = linear()
    input, target = batch(6)
    f, y = input.flatten(1).double().numpy(), target.numpy()
    z = logits_of(input, w, b)
    virtual = np.linalg.norm(w[y], axis=1) * np.linalg.norm(f, axis=1)
    denominator = np.exp(z).sum(axis=1) + np.exp(virtual)
    expected = float(-np.mean(np.log(np.exp(z[np.arange(6), y]) / denominator)))
    out = create_method("virtual_softmax", model)(input, target)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(out["output"].detach().numpy(), z, rtol=1e-4, atol=1e-5)
    assert out["output"].shape == (6, 5), "the virtual class is no output"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_of_zeros_have_cosines_of_zero(dtype: torch.dtype) -> None:
    head, features = CosineClassifier(12, 5).to(dtype), torch.zeros(2, 12, dtype=dtype, requires_grad=True)
    cosines = head(features)
    assert cosines.tolist() == [[0.0] * 5] * 2
    cosines.sum().backward()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("size", [6, 7])
def test_adacos(size: int) -> None:
    model = Linear(5)
    torch.manual_seed(0)
    model.fc = CosineClassifier(12, 5)
    w = model.fc.weight.detach().double().numpy()
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    method = create_method("adacos", model).train()
    scale = np.sqrt(2) * np.log(4)
    assert model.fc.scale.item() == pytest.approx(scale)
    for seed in (0, 1):  # the second step starts from the first one's scale
        input, target = batch(size, seed=seed)
        f, y = input.flatten(1).double().numpy(), target.numpy()
        cosines = f / np.linalg.norm(f, axis=1, keepdims=True) @ w.T
        out = method(input, target)
        np.testing.assert_allclose(out["output"].detach().numpy(), scale * cosines, rtol=1e-4, atol=1e-5)
        own = cosines[np.arange(size), y]
        average = np.mean([sum(np.exp(scale * cosines[i, k]) for k in range(5) if k != y[i]) for i in range(size)])
        median = np.sort(np.arccos(own))[(size - 1) // 2]
        scale = np.log(average) / np.cos(min(np.pi / 4, median))
        assert model.fc.scale.item() == pytest.approx(scale, rel=1e-5)
        assert out["loss"].item() == pytest.approx(cross_entropy(scale * cosines, y), rel=1e-5)
    method.eval()
    method(*batch(size, seed=2))
    assert model.fc.scale.item() == pytest.approx(scale, rel=1e-5), "evaluation does not change it"


def test_cs_kd_e_section_3_4() -> None:
    model, w, b = linear()
    (anchors, target), pairs, clean = batch(6), batch(6, seed=1)[0], batch(6, seed=2)[0]
    z, z_pair, z_clean = (logits_of(images, w, b) for images in (anchors, pairs, clean))
    method = create_method("cs_kd_e", model, weight=2.0, clean_weight=0.5, temperature=4.0)
    out = method(torch.cat([anchors, pairs, clean]), target.repeat(3))
    kd, own = (16 * kl(softmax(other / 4), softmax(z / 4)) for other in (z_pair, z_clean))
    ce = cross_entropy(z, target.numpy())
    assert out["kd"].item() == pytest.approx(kd, rel=1e-4)
    assert out["clean"].item() == pytest.approx(own, rel=1e-4)
    assert out["loss"].item() == pytest.approx(ce + 2 * kd + 0.5 * own, rel=1e-4)
    out["loss"].backward()
    p = softmax(z)
    p[np.arange(6), target.numpy()] -= 1
    d = (p + 4 * (2 * (softmax(z / 4) - softmax(z_pair / 4)) + 0.5 * (softmax(z / 4) - softmax(z_clean / 4)))) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ anchors.flatten(1).numpy(), rtol=1e-3, atol=1e-5)


def test_ddgsd() -> None:
    model, w, b = linear()
    anchors, target = batch(6)
    views, _ = batch(6, seed=1)
    y, f, g = target.numpy(), anchors.flatten(1).double().numpy(), views.flatten(1).double().numpy()
    z, v = f @ w.T + b, g @ w.T + b
    method = create_method("ddgsd", model, weight=0.5, temperature=3.0, mmd_weight=0.1)
    out = method(torch.cat([anchors, views]), torch.cat([target, target]))
    ce = cross_entropy(z, y) + cross_entropy(v, y)
    kd = 9 * (kl(softmax(v / 3), softmax(z / 3)) + kl(softmax(z / 3), softmax(v / 3)))
    mmd = float(np.sum((f.mean(axis=0) - g.mean(axis=0)) ** 2))
    for key, value in {"ce": ce, "kd": kd, "mmd": mmd, "loss": ce + 0.5 * kd + 0.1 * mmd}.items():
        assert out[key].item() == pytest.approx(value, rel=1e-4), key
    out["loss"].backward()
    # Each divergence pulls its second argument only: T * (softmax(own / T) - softmax(other / T)).
    one_hot, apart = np.eye(5)[y], softmax(z / 3) - softmax(v / 3)
    d_z, d_v = (softmax(z) - one_hot + 0.5 * 3 * apart) / 6, (softmax(v) - one_hot - 0.5 * 3 * apart) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d_z.T @ f + d_v.T @ g, rtol=1e-3, atol=1e-5)


def test_dml() -> None:
    model, w, b = linear()
    method = create_method("dml", model, weight=0.5, temperature=2.0)
    peer_w, peer_b = (p.detach().double().numpy() for p in (method.peer.fc.weight, method.peer.fc.bias))
    assert not np.allclose(w, peer_w)
    input, target = batch(6)
    y, f = target.numpy(), input.flatten(1).double().numpy()
    z, other = f @ w.T + b, f @ peer_w.T + peer_b
    out = method(input, target)
    p, q = softmax(z / 2), softmax(other / 2)
    ce, kd = (cross_entropy(z, y) + cross_entropy(other, y)) / 2, 4 * (kl(p, q) + kl(q, p))
    assert out["kd"].item() == pytest.approx(kd, rel=1e-4)
    assert out["loss"].item() == pytest.approx(ce + 0.5 * kd, rel=1e-4)
    np.testing.assert_allclose(out["output"].detach().numpy(), z, rtol=1e-4, atol=1e-5)
    out["loss"].backward()
    for fc, logits, pull in ((model.fc, z, p - q), (method.peer.fc, other, q - p)):
        d = ((softmax(logits) - np.eye(5)[y]) / 2 + 0.5 * 2 * pull) / 6
        np.testing.assert_allclose(fc.weight.grad.numpy(), d.T @ f, rtol=1e-3, atol=1e-5)


class Staged(nn.Module):
    """Four stages that halve a 16-pixel image by averaging, so that NumPy can compute them."""

    def __init__(self) -> None:
        super().__init__()
        for number in (1, 2, 3, 4):
            self.add_module(f"layer{number}", nn.AvgPool2d(2))
        self.fc = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def test_byot() -> None:
    torch.manual_seed(0)
    model = Staged()
    method = create_method("byot", model, ce_weight=0.8, kd_weight=0.2, feature_weight=0.3, temperature=3.0).train()
    input, target = torch.randn(6, 3, 16, 16), batch(6)[1]
    y = target.numpy()
    out = method(input, target)
    parameters = {name: value.detach().double().numpy() for name, value in method.named_parameters()}

    def normalised(x: np.ndarray) -> np.ndarray:
        """BatchNorm with its initial weights, then ReLU. x: [B, C, H, W]."""
        x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        return np.maximum(x, 0)

    def averaged(x: np.ndarray, side: int) -> np.ndarray:
        return x.reshape(*x.shape[:2], side, x.shape[2] // side, side, x.shape[3] // side).mean((3, 5))

    pixels = input.double().numpy()
    f = pixels.mean((2, 3))
    z = f @ parameters["model.fc.weight"].T + parameters["model.fc.bias"]
    branch_ce = kd = feature = 0.0
    for number, (side, shrink) in enumerate([(8, 8), (4, 4), (2, 2)]):
        names = [*(f"bottleneck.{layer}.weight" for layer in (0, 3, 6)), "fc.weight", "fc.bias"]
        weights = {name: parameters[f"branches.{number}.{name}"] for name in names}
        x = averaged(pixels, side)  # biases of the convolutions vanish in BatchNorm
        x = normalised(np.einsum("bchw,mc->bmhw", x, weights["bottleneck.0.weight"][:, :, 0, 0]))
        assert weights["bottleneck.3.weight"].shape[2:] == (shrink, shrink)
        x = normalised(np.einsum("bchw,mchw->bm", x, weights["bottleneck.3.weight"])[:, :, None, None])
        x = normalised(np.einsum("bchw,mc->bmhw", x, weights["bottleneck.6.weight"][:, :, 0, 0]))
        own = x.mean((2, 3))
        logits = own @ weights["fc.weight"].T + weights["fc.bias"]
        branch_ce += cross_entropy(logits, y)
        kd += 9 * kl(softmax(z / 3), softmax(logits / 3))
        feature += float(np.mean((own - f) ** 2))
    loss = cross_entropy(z, y) + 0.8 * branch_ce + 0.2 * kd + 0.3 * feature
    for key, value in {"branch_ce": branch_ce, "kd": kd, "feature": feature, "loss": loss}.items():
        assert out[key].item() == pytest.approx(value, rel=1e-3), key
    # The teacher's side is detached: the network's own classifier has the gradient of its cross-entropy alone.
    out["loss"].backward()
    d = (softmax(z) - np.eye(5)[y]) / 6
    np.testing.assert_allclose(model.fc.weight.grad.numpy(), d.T @ f, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("base", ["ce", "cs_kd"])
def test_kd(base: str) -> None:
    model, w, b = linear()
    torch.manual_seed(5)
    teacher = Linear(5)
    u, c = (p.detach().double().numpy() for p in (teacher.fc.weight, teacher.fc.bias))
    anchors, target = batch(6)
    pairs, _ = batch(6, seed=1)
    z, y = logits_of(anchors, w, b), target.numpy()
    input, targets = (anchors, target) if base == "ce" else (torch.cat([anchors, pairs]), torch.cat([target, target]))
    method = create_method("kd", model, teacher=teacher, base=base, weight=0.5, temperature=2.0)
    out = method(input, targets)
    term = 4 * kl(softmax(logits_of(anchors, u, c) / 2), softmax(z / 2))
    expected = cross_entropy(z, y) + 0.5 * term
    if base == "cs_kd":
        expected += 16 * kl(softmax(logits_of(pairs, w, b) / 4), softmax(z / 4))
    assert out["teacher"].item() == pytest.approx(term, rel=1e-4)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)
    out["loss"].backward()
    assert teacher.fc.weight.grad is None


@pytest.mark.parametrize("samples", [1, 2])
def test_dropout(samples: int) -> None:
    model, w, b = linear()
    input, target = batch(6)
    method = create_method("dropout", model, drop_rate=0.3, samples=samples)
    torch.manual_seed(7)
    out = method(input, target)
    torch.manual_seed(7)
    f = input.flatten(1)
    masks = [nn.functional.dropout(torch.ones_like(f), 0.3).double().numpy() for _ in range(samples)]
    losses = [cross_entropy((f.double().numpy() * mask) @ w.T + b, target.numpy()) for mask in masks]
    assert out["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    np.testing.assert_allclose(out["output"].detach().numpy(), logits_of(input, w, b), rtol=1e-4, atol=1e-5)


def test_sd_dropout_after_a_stage() -> None:
    torch.manual_seed(0)
    model = Staged()
    w, b = (p.detach().double().numpy() for p in (model.fc.weight, model.fc.bias))
    input, target = torch.randn(6, 3, 16, 16), batch(6)[1]
    method = create_method("sd_dropout", model, position="layer2", drop_rate=0.3)
    torch.manual_seed(7)
    out = method(input, target)
    torch.manual_seed(7)
    masks = [nn.functional.dropout(torch.ones(6, 3, 4, 4), 0.3).double().numpy() for _ in range(2)]
    maps = input.double().numpy().reshape(6, 3, 4, 4, 4, 4).mean((3, 5))
    u, v = (softmax(((maps * mask).mean((2, 3)) @ w.T + b) / 3) for mask in masks)
    assert out["sdd"].item() == pytest.approx(9 * (kl(u, v) + kl(v, u)), rel=1e-4)
    expected = cross_entropy(maps.mean((2, 3)) @ w.T + b, target.numpy()) + out["sdd"].item()
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_no_method_is_without_a_numeric_test() -> None:
    tested = [
        *("adacos", "byot", "ce", "cs_kd", "cs_kd_e", "ddgsd", "dml", "dropout", "kd", "label_smoothing"),
        *("max_entropy", "sd_dropout", "virtual_softmax"),
    ]
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    others = set(list_methods()) - set(tested)
    assert others <= files, "a new method needs its equation tested, in tests/test_NAME.py"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    """Logits of 1,000 classes times T^2 overflow or vanish in 16 bits; the losses must not."""
    torch.manual_seed(0)
    logits = torch.randn(4, 1000).mul(30)
    with torch.autocast("cpu", dtype=dtype):
        low = kl_divergence(logits.to(dtype), logits.flip(0).to(dtype), 3.0)
    exact = kl_divergence(logits.to(dtype).double(), logits.flip(0).to(dtype).double(), 3.0)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=1e-4)
