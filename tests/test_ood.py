"""Out-of-distribution detection against brute force; ODIN's scaling, sign and protocol."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks import MEAN, STD, Net, batch, normalised, pixels_of
from torch import nn

import skd_plugins
from skd_plugins import Recipe
from skd_plugins.common.errors import SkdError
from skd_plugins.data import open_source
from skd_plugins.data.beton.write import write_folder
from skd_plugins.evaluation import predict
from skd_plugins.evaluation.command import evaluate
from skd_plugins.evaluation.evaluate import evaluate_weights
from skd_plugins.evaluation.ood import ODIN, hold_out, max_softmax, odin_scores, ood_metrics, tune_odin
from skd_plugins.training.main import HELP
from skd_plugins.training.parts import evaluation_loader
from skd_plugins.weights import load_network

quick = settings(max_examples=50, deadline=None, derandomize=True)
# Few different values: ties within and between the sides are the rule.
sides = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=45), st.lists(st.integers(0, 6), min_size=1, max_size=9)
)


def rates(inside: list[int], outside: list[int], threshold: float) -> list[Fraction]:
    """True and false positive rate of accepting from a threshold on."""
    return [Fraction(sum(s >= threshold for s in side), len(side)) for side in (inside, outside)]


def slow_average_precision(positive: list[int], negative: list[int]) -> float:
    """Sum over distinct thresholds of precision times the recall that it adds."""
    total, before = Fraction(0), Fraction(0)
    for threshold in sorted({*positive, *negative}, reverse=True):
        true, false = sum(s >= threshold for s in positive), sum(s >= threshold for s in negative)
        recall = Fraction(true, len(positive))
        total += (recall - before) * Fraction(true, true + false)
        before = recall
    return float(total)


@quick
@given(sides)
def test_metrics_are_their_definitions_with_ties(data: tuple[list[int], list[int]]) -> None:
    inside, outside = data
    arrays = np.array(inside, float), np.array(outside, float)
    pairs = [Fraction(a > b) + Fraction(a == b, 2) for a in inside for b in outside]
    points = [rates(inside, outside, t) for t in [*range(8), math.inf]]
    tpr, fpr = min((p for p in points if p[0] >= Fraction(95, 100)), key=lambda p: p[1])
    assert ood_metrics(*arrays) == {
        "fpr95": pytest.approx(float(fpr), abs=1e-12),
        "detection_error": pytest.approx(float((1 - tpr) / 2 + fpr / 2), abs=1e-12),
        "detection_error_min": pytest.approx(min(float((1 - t) / 2 + f / 2) for t, f in points), abs=1e-12),
        "auroc": pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-12),
        "aupr_in": pytest.approx(slow_average_precision(inside, outside), abs=1e-12),
        "aupr_out": pytest.approx(slow_average_precision([-s for s in outside], [-s for s in inside]), abs=1e-12),
    }


@pytest.mark.parametrize("temperature", [0.5, 1, 10, 1000])
def test_score_is_the_log_of_the_largest_probability_at_the_temperature(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 5
    expected = [-math.log(math.fsum(math.exp((x - max(row)) / temperature) for x in row)) for row in logits]
    np.testing.assert_allclose(max_softmax(logits, temperature), expected, rtol=1e-10, atol=1e-14)
    assert np.array_equal(max_softmax(np.zeros((2, 4)), temperature), np.full(2, -np.log(4)))


def test_scores_of_confident_images_stay_apart_and_the_temperature_changes_the_ranking() -> None:
    scores = max_softmax(np.array([[50.0, 0.0], [60.0, 0.0]]))
    assert scores[0] < scores[1] < 0, "their probabilities are both 1.0 in float64; a tie would cost AUROC"
    # The trap: ODIN scored without its temperature is another detector.
    logits = np.array([[4.0, 3.9, -50, -50], [4.0, 2.5, 2.5, 2.5]])
    assert np.argmax(max_softmax(logits, 1)) == 1
    assert np.argmax(max_softmax(logits, 1000)) == 0


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_raises_the_largest_probability_to_first_order(temperature: float) -> None:
    """Every image's score rises, by eps times the L1 norm of its gradient in pixels; each channel moves by eps."""
    input, target = batch(12)
    model, eps = Net().eval(), 1e-6
    moved = ODIN(eps=eps, temperature=temperature, mean=MEAN, std=STD)(model, input, target)
    change = (pixels_of(moved) - pixels_of(input)).abs()
    torch.testing.assert_close(change, torch.full_like(change, eps), atol=1e-12, rtol=0)
    with torch.no_grad():
        before, after = max_softmax(model(input), temperature), max_softmax(model(moved), temperature)
    assert np.all(after > before)
    pixels = pixels_of(input).requires_grad_()
    log_probability = (model(normalised(pixels)) / temperature).log_softmax(1).max(1).values.sum()
    (gradient,) = torch.autograd.grad(log_probability, pixels)
    np.testing.assert_allclose((after - before) / eps, gradient.abs().sum((1, 2, 3)).numpy(), rtol=1e-4)


def test_odin_scores_use_the_temperature_and_no_labels() -> None:
    input, _ = batch(9)
    model = Net().eval()
    perturb = ODIN(eps=0.01, temperature=100, mean=MEAN, std=STD)
    outside = [(input[:4], torch.tensor([46, 46, 46, 46])), (input[4:], torch.full((5,), 3))]  # 47 textures, 5 outputs
    scores = odin_scores(model, outside, perturb)
    logits = model(perturb(model, input, torch.zeros(9))).detach().float()
    np.testing.assert_allclose(scores, max_softmax(logits, 100), rtol=1e-6)
    with pytest.raises(SkdError, match="the data has target 46"):
        predict(model, outside)
    plain = odin_scores(model, [(input, torch.zeros(9).long())], ODIN(eps=0, temperature=1, mean=MEAN, std=STD))
    np.testing.assert_allclose(plain, max_softmax(model(input).detach().float()), rtol=1e-12, err_msg="the baseline")


class Indexed:
    def __init__(self, count: int, seed: int, broken: int = 0) -> None:
        input, target = batch(count, seed)
        self.batches = [(input[i : i + 4], target[i : i + 4]) for i in range(0, count - broken, 4)]
        self.indices = np.arange(count)

    def __iter__(self) -> object:
        return iter(self.batches)


def test_tuning_takes_the_best_of_the_grid_on_the_held_out_part() -> None:
    model, inside, outside = Net(), Indexed(40, 1), Indexed(32, 2)
    (held, mask), (held_outside, _) = hold_out(inside, 30), hold_out(outside, 30)
    assert mask.sum() == sum(len(target) for _, target in held) == 30
    everything = torch.cat([input for input, _ in inside.batches])
    assert torch.equal(torch.cat([input for input, _ in held]), everything[torch.from_numpy(mask)])
    assert np.array_equal(mask, hold_out(inside, 30)[1])
    best, table = tune_odin(
        model, held, held_outside, mean=MEAN, std=STD, temperatures=(1, 1000), eps=(0.0, 0.02, 0.05)
    )
    assert set(table) == {(t, e) for t in (1, 1000) for e in (0.0, 0.02, 0.05)}
    assert len(set(table.values())) > 1, "else there is nothing to choose"
    assert table[best.temperature, best.eps] == min(table.values())
    for (temperature, eps), value in table.items():
        perturb = ODIN(eps=eps, temperature=temperature, mean=MEAN, std=STD)
        scores = (odin_scores(model, part, perturb) for part in (held, held_outside))
        assert value == ood_metrics(*scores)["fpr95"]


def test_ties_go_to_the_gentler_setting() -> None:
    model = Net()
    nn.init.zeros_(model.fc.weight)
    best, table = tune_odin(model, [batch(8)], [batch(8)], mean=MEAN, std=STD, temperatures=(10, 1), eps=(0.1, 0.0))
    assert set(table.values()) == {1.0}
    assert (best.temperature, best.eps) == (1, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ood_metrics(np.zeros(3), np.array([np.nan])), "out-of-distribution scores must be finite"),
        (lambda: max_softmax(np.array([[np.inf, 0]])), "finite logits"),
        (lambda: hold_out(Indexed(8, 0), 8), "and keep others"),
        (lambda: hold_out(Indexed(8, 0, broken=4), 4), "gave 4 of 8 images"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        call()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released network of the digits, 40 of its validation digits with superclasses, others, and 20 letters."""
    root = tmp_path_factory.mktemp("detection")
    shutil.copytree(Path(skd_plugins.__file__).parent / "weights" / "released" / "resnet10t_digits.ce", root / "run")
    write_folder(open_source("digits", False).subset(4, seed=0), root / "data" / "val")
    write_folder(open_source("digits", True).subset(20, seed=5), root / "held")  # few of them were trained on
    letters = open_source("glyphs_other", False)
    letters = replace(letters, targets=letters.targets % 4, classes=list("abcd"))
    write_folder(letters.subset(5, seed=0), root / "letters")
    (root / "data" / "hierarchy.json").write_text(json.dumps({str(k): "high" if k > 4 else "low" for k in range(10)}))
    return root


def test_skd_evaluate_measures_detection_temperature_and_superclasses(folders: Path) -> None:
    arguments = ["--data", "data", "--ood", "letters", "--odin", "--temperature-from", "held"]
    paths = [text if text.startswith("--") else str(folders / text) for text in ["run", *arguments]]
    tyro.cli(evaluate, args=[*paths, "--workers", "1"], config=HELP)
    saved = json.loads((folders / "run" / "evaluation-odin-scaled" / "metrics.json").read_text())
    model, card = load_network(folders / "run")
    inside, held, outside = (
        evaluation_loader(Recipe.from_json(card["recipe"]), folders / name) for name in ("data/val", "held", "letters")
    )
    own, other = predict(model, inside), predict(model, outside)
    expected = ood_metrics(max_softmax(own.logits), max_softmax(other.logits))
    found = saved["ood"][str(folders / "letters")]
    assert found["msp"] == pytest.approx(expected)
    assert saved["metrics"]["msp_auroc"] == pytest.approx(expected["auroc"])
    assert (found["images"], found["odin"]["held_out"]) == (20, 10)
    odin = ODIN(eps=found["odin"]["eps"], temperature=found["odin"]["temperature"], mean=inside.mean, std=inside.std)
    scores = [odin_scores(model, part, odin)[~hold_out(part, 10)[1]] for part in (inside, outside)]
    assert saved["metrics"]["odin_auroc"] == pytest.approx(ood_metrics(*scores)["auroc"])
    temperature = saved["metrics"]["temperature"]
    fitted = predict(model, held)
    at = [float(F.cross_entropy(fitted.logits / (temperature * factor), fitted.targets)) for factor in (0.9, 1, 1.1)]
    assert at[1] == min(at), "the best temperature of the other images"
    scaled = F.cross_entropy(own.logits.double() / temperature, own.targets)
    assert saved["metrics"]["scaled_nll"] == pytest.approx(float(scaled))
    other_half = (own.logits.argmax(1) > 4) != (own.targets > 4)
    assert other_half.any()
    assert saved["metrics"]["superclass_error"] == pytest.approx(float(other_half.float().mean()))
    page = (folders / "run" / "evaluation-odin-scaled" / "report.html").read_text()
    assert f"{100 * expected['fpr95']:.2f}\u202f%" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"odin": True}, "give some: --ood DATA"),
        ({"ood": ("letters",), "attack": "fgsm"}, "--attack fgsm and --ood are two evaluations"),
        ({"flip": True, "attack": "fgsm"}, "--flip averages two predictions, .*; leave one out"),
        ({"flip": True, "ood": ("letters",)}, "--flip averages two predictions, .*; leave one out"),
        ({"ood": ("data",)}, "data is what is evaluated; give other images to --ood and --temperature-from"),
        ({"temperature_from": "data"}, "data is what is evaluated; give other images"),
        ({"temperature_from": "letters"}, "was trained for 10 classes, letters has 4"),
        ({"ood": ("nowhere",)}, "nowhere does not exist"),
    ],
)
def test_what_skd_evaluate_refuses(
    options: dict[str, Any], message: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    with pytest.raises(SkdError, match=message):
        evaluate_weights("run", data="data", **options)
    assert not Path("run/evaluation").exists()
