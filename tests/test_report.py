"""The report and the comparison, as a real browser shows them."""

import html
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import Predictions, compare, summarize, write_report
from skd_plugins.evaluation.comparison import METRICS, group_runs, read_run, winners
from skd_plugins.evaluation.html import data_uri
from skd_plugins.evaluation.metrics import Reliability
from skd_plugins.evaluation.svg import Series, curve_plot, nice_ticks
from skd_plugins.training.main import HELP

EVIL = "<script>alert('x')</script>"


def text_of(source: str) -> str:
    source = re.sub(r"<style>.*?</style>", "", source, flags=re.DOTALL).replace("<wbr>", "")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def measure(browse: Callable[..., str], page: Path, *flags: str) -> list[dict[str, Any]]:
    """Overflow, background and images of the page in frames as wide as a phone and as a desk."""
    frames = "".join(
        f'<iframe width={width} height=600 style="border:0" srcdoc="{html.escape(page.read_text())}"></iframe>'
        for width in (390, 1100)
    )
    script = """onload = () => document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
        const inner = frame.contentDocument, images = [...inner.images]
        return {overflow: inner.documentElement.scrollWidth - inner.documentElement.clientWidth,
                ground: frame.contentWindow.getComputedStyle(inner.body).backgroundColor,
                loaded: images.filter(image => image.complete && image.naturalWidth > 0).length}
    }))"""
    outer = page.with_name("frames.html")
    outer.write_text(f"<!doctype html><title></title>{frames}<script>{script}</script>", encoding="utf-8")
    title = re.search(r"<title>(.+?)</title>", browse(outer, *flags), re.DOTALL)
    assert title is not None, "the frames were not measured"
    return json.loads(html.unescape(title[1]))


def assert_self_contained(dom: str) -> None:
    """No script, no link, and no address but data: and the page's own pattern."""
    assert not re.findall(r"<(?:script|link|iframe|object|embed|base|form)\b|@import", dom)
    addresses = re.findall(r'\b(?:src|href|srcset|action|background|poster)="([^"]*)"', dom)
    assert all(address.startswith("data:") for address in addresses)
    assert set(re.findall(r"url\(([^)]*)\)", dom)) <= {"#hatch"}
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in dom


@pytest.fixture(scope="module")
def digits() -> tuple[Predictions, NDArray[np.uint8]]:
    """Real predictions: a linear classifier of handwritten digits, trained on 300 of them."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    data = load_digits()
    model = LogisticRegression(C=0.01, max_iter=200).fit(data.data[:300], data.target[:300])
    kept = np.array([i for i in range(300, 1797) if i != 500])
    predictions = Predictions(
        torch.tensor(model.decision_function(data.data[kept]), dtype=torch.float32),
        torch.tensor(data.target[kept]),
        torch.tensor(data.data[kept], dtype=torch.float32),
        torch.tensor(kept),
        {500: "not a JPEG <b>file</b>"},
    )
    return predictions, (data.images * 15.9).astype(np.uint8)


def report(digits: tuple[Predictions, NDArray[np.uint8]], out: Path) -> Path:
    predictions, images = digits
    return write_report(
        predictions,
        out,
        title=f"Digits {EVIL}",
        classes=[f"digit {k}" if k != 8 else EVIL for k in range(10)],
        info={"weights": Path("a&b"), "versions": {"torch": "2.13"}, "note": EVIL, "bad": math.inf, "t": torch.ones(1)},
        images=lambda index: images[index],
    )


@pytest.mark.browser
def test_report_in_the_browser(
    digits: tuple[Predictions, NDArray[np.uint8]], tmp_path: Path, browse: Callable[..., str]
) -> None:
    path = report(digits, tmp_path)
    dom = browse(path)
    assert_self_contained(dom)
    text, metrics = text_of(dom), summarize(digits[0])
    assert 0.8 < metrics["top1"] < 0.97
    for key in ("top1", "top5", "ece", "ece_10", "recall_at_1"):
        assert f"{100 * metrics[key]:.2f} %" in text, key
    assert f"{metrics['nll']:.4f}" in text
    assert "1,496 images, 10 classes, 1 skipped" in text
    # Text from outside is shown as it is, and is text.
    for shown in (f"Digits {EVIL}", f"note {EVIL}", "not a JPEG <b>file</b>", "weights a&b", '{"torch": "2.13"}'):
        assert shown in text
    assert dom.count("<svg") == 4
    grounds = []
    for scheme in (0, 1):
        frames = measure(browse, path, f"--blink-settings=preferredColorScheme={scheme}")
        assert [(frame["overflow"], frame["loaded"]) for frame in frames] == [(0, 24)] * 2, "it fits phone and desk"
        grounds.append(int(re.findall(r"\d+", frames[0]["ground"])[0]))
    assert grounds[0] < 50, "dark"
    assert grounds[1] > 230, "light"


def test_metrics_file(digits: tuple[Predictions, NDArray[np.uint8]], tmp_path: Path) -> None:
    assert report(digits, tmp_path) == tmp_path / "report.html"
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert list(saved) == ["metrics", "intervals", "reliability", "info", "skipped"]
    assert saved["metrics"] == summarize(digits[0])
    assert saved["skipped"] == 1
    info = {"weights": "a&b", "versions": {"torch": "2.13"}, "note": EVIL, "bad": None, "t": [1.0]}
    assert saved["info"] == info
    assert Reliability.from_json(saved["reliability"]).ece == pytest.approx(saved["metrics"]["ece"], abs=1e-12)
    assert None in saved["reliability"]["accuracy"], "an empty bin"


def tiny(logits: list[list[float]], targets: list[int], first: int = 0) -> Predictions:
    positions = torch.arange(first, first + len(targets))
    return Predictions(torch.tensor(logits), torch.tensor(targets), positions.float()[:, None], positions)


def test_worst_classes_and_images(tmp_path: Path) -> None:
    # class 0: one of two right, taken for 2; class 1: right; class 2: none right, twice 1, once 0; class 3: no image
    confidences = [0.9, 0.8, 0.99, 0.7, 0.6, 0.95]
    targets, predicted = [0, 0, 1, 2, 2, 2], [0, 2, 1, 1, 0, 1]
    logits = np.log([[c if k == p else (1 - c) / 3 for k in range(4)] for p, c in zip(predicted, confidences)])  # noqa: B905
    asked: list[int] = []

    def image(index: int) -> NDArray[np.uint8]:
        asked.append(index)
        return np.full((100, 80, 3), index, np.uint8)

    path = write_report(
        tiny(logits.tolist(), targets, first=20), tmp_path, title="t", classes=list("ABCD"), info={}, images=image
    )
    assert asked == [25, 21, 23, 24], "data set indices of the wrong ones, most confident first"
    text = text_of(path.read_text())
    worst = text[text.index("Worst classes") : text.index("Confusion matrix")]
    assert "C 3 0.0 % B 2× A 2 50.0 % C 1×" in worst
    assert "D" not in worst.split(), "a class without images"
    cells = text[text.index("Most confidently wrong") :]
    assert "✗ B 95.0 % ✓ C ✗ C 80.0 % ✓ A ✗ B 70.0 % ✓ C ✗ A 60.0 % ✓ C" in cells
    cells = {"A: 1 of 2 taken for C (50.0%)", "A: 1 of 2 right (50.0%)", "B: 1 of 1 right (100.0%)",
             "C: 2 of 3 taken for B (66.7%)", "C: 1 of 3 taken for A (33.3%)"}  # fmt: skip
    assert set(re.findall(r"<title>(\w: \d.*?)</title>", path.read_text())) == cells, "the confusion matrix"
    assert "How this was made" not in text, "no info, no table"


def test_plots_show_the_counts(tmp_path: Path) -> None:
    logits = np.log([[0.92, 0.08]] * 4 + [[0.5, 0.5]] * 2 + [[0.62, 0.38]])
    path = write_report(tiny(logits.tolist(), [0, 0, 0, 1, 0, 1, 1]), tmp_path, title="t", info={})
    assert set(re.findall(r"<title>(.*?)</title>", path.read_text())) >= {
        "confidence 90% to 95%: 4 images, accuracy 75.0%, mean confidence 92.0%",
        # 0.5 is a right edge: it belongs to 45 % to 50 %, in both plots
        "confidence 45% to 50%: 2 images, accuracy 50.0%, mean confidence 50.0%",
        "3 right at 90% to 95% confidence (75.0% of the right)",
        "1 wrong at 90% to 95% confidence (33.3% of the wrong)",
        "1 right at 45% to 50% confidence (25.0% of the right)",
    }
    assert "Most confidently wrong" not in path.read_text(), "no images, no grid"


@pytest.mark.parametrize(("confidence", "verdict"), [(0.9, "agrees with accuracy"), (0.99, "Overconfident")])
def test_a_gap_within_its_interval_is_no_verdict(tmp_path: Path, confidence: float, verdict: str) -> None:
    """171 images, 154 right, all in one bin: its gap is a mean of independent draws, whose deviation is known."""
    logits = [[math.log(confidence), math.log(1 - confidence)]] * 171
    page = write_report(tiny(logits, [0] * 154 + [1] * 17), tmp_path, title="", info={})
    accuracy, intervals = 154 / 171, json.loads((tmp_path / "metrics.json").read_text())["intervals"]
    gap, width = confidence - accuracy, 1.96 * math.sqrt(accuracy * (1 - accuracy) / 171)
    assert intervals["overconfidence"] == pytest.approx([gap - width, gap + width], abs=0.005)
    assert intervals["ece"] == pytest.approx([max(0, abs(gap) - width), abs(gap) + width], abs=0.005)
    assert verdict in page.read_text()


@pytest.mark.parametrize("wrong", [False, True])
def test_extremes(tmp_path: Path, wrong: bool) -> None:
    """All right or all wrong, with confidence 1; one sample, which has no neighbour."""
    predictions, picture = tiny([[0.0, 900.0]], [0 if wrong else 1]), np.zeros((4, 4), np.uint8)
    path = write_report(predictions, tmp_path, title="one", info={"loss": float("nan")}, images=lambda _: picture)
    text = text_of(path.read_text())
    assert "1 images, 2 classes" in text
    assert ("Every prediction is right." in text) is not wrong
    saved = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert saved["metrics"]["recall_at_1"] is None
    assert saved["info"]["loss"] is None
    assert saved["metrics"]["ece"] == float(wrong)
    with pytest.raises(SkdError, match="3 class names do not fit a model with 2 outputs"):
        write_report(predictions, tmp_path, title="t", classes=list("abc"), info={})


def test_pictures() -> None:
    assert data_uri(np.zeros((8, 8), np.uint8)).startswith("data:image/png;base64,")
    assert data_uri(np.zeros((900, 300, 3), np.uint8)).startswith("data:image/jpeg;base64,")
    assert len(data_uri(np.random.default_rng(0).integers(0, 255, (3000, 2000, 3), np.uint8))) < 60_000


def make_run(
    folder: Path, *, top1: float, nll: float | None = 0.5, recipe: dict[str, Any] | None = None, **more: Any
) -> Path:
    """A run's folder as `skd train` and `skd evaluate` leave it."""
    place = folder / "evaluation"
    place.mkdir(parents=True)
    bins = {"edges": [0, 0.5, 1], "counts": [0, 4], "accuracy": [None, top1], "confidence": [None, 0.9]}
    metrics = {"top1": top1, "nll": nll, "ece": 0.02, "recall_at_1": None, "num_samples": more.get("num_samples", 4)}
    info = {"data": more.get("data", "digits"), "out of distribution": more.get("ood", [])}
    saved = {"metrics": metrics, "reliability": bins, "info": info, "skipped": 0}
    (place / "metrics.json").write_text(json.dumps(saved))
    if recipe is not None:
        (folder / "recipe.json").write_text(json.dumps(recipe))
        lines = [json.dumps({"event": "validate", "epoch": e - 1, "top1": top1 * e / 3, "nll": nll}) for e in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("\n".join(['{"event": "train", "loss": 1}', *lines]))
    return folder


def recipe(name: str = "digits_ce", seed: int = 0, weight: float = 1.0) -> dict[str, Any]:
    return {"name": name, "model": "resnet10t", "method": "ce", "method_args": {"weight": weight}, "seed": seed}


@pytest.mark.parametrize(
    ("sharpness", "method", "advice"), [(0.3, "sd_dropout", True), (0.3, None, False), (9, "ce", False)]
)
def test_the_page_advises_a_lower_weight_to_underconfident_networks(
    digits: tuple[Predictions, NDArray[np.uint8]], tmp_path: Path, sharpness: float, method: str | None, advice: bool
) -> None:
    predictions = replace(digits[0], logits=sharpness * digits[0].logits)
    page = write_report(predictions, tmp_path, title="", info={"method": method} if method else {}).read_text()
    assert ("Underconfident" in page) == (sharpness < 1)
    assert ("Try a lower weight" in page) == advice


@pytest.fixture
def six_runs(tmp_path: Path) -> list[Path]:
    runs = [make_run(tmp_path / f"ce{s}", top1=t, recipe=recipe(seed=s)) for s, t in enumerate((0.90, 0.91, 0.95))]
    runs.append(make_run(tmp_path / "heavy", top1=0.93, nll=0.7, recipe=recipe(seed=0, weight=3.0)))
    runs.append(make_run(tmp_path / "sd", top1=0.94, nll=0.4, recipe=recipe(name=EVIL)))
    runs.append(make_run(tmp_path / "[red]bare", top1=0.5, nll=None))
    return runs


def test_groups_have_mean_and_sample_deviation(six_runs: list[Path]) -> None:
    groups = group_runs([read_run(path) for path in six_runs])
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("digits_ce (weight=1.0)", 3),
        ("digits_ce (weight=3.0)", 1),
        (EVIL, 1),
        ("[red]bare", 1),
    ]
    assert groups[0].mean("top1") == pytest.approx(0.92)
    top1, nll = METRICS[0], METRICS[2]
    assert groups[0].cell(top1) == f"92.00 ± {100 * np.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2):.2f}"
    assert groups[1].cell(top1) == "93.00"
    assert groups[3].cell(nll) == "–"
    best = winners(groups)
    assert best[top1] == best[nll] == {EVIL}, "the highest and the lowest"
    assert best[METRICS[3]] == set(), "all the same"
    assert [metric.key for metric in best] == ["top1", "nll", "ece"], "nobody has others"


def test_only_the_seed_may_differ_in_a_group(tmp_path: Path) -> None:
    """Two seeds under an attack are one group; they are no seeds of the clean evaluation."""
    ce = [make_run(tmp_path / f"ce{seed}", top1=0.9, recipe=recipe(seed=seed)) for seed in (0, 1)]
    again = make_run(tmp_path / "again", top1=0.8, recipe=recipe(seed=1))
    other_data = make_run(tmp_path / "other", top1=0.9, recipe=recipe(seed=2), num_samples=9)
    for run in ce:
        shutil.copytree(run / "evaluation", run / "evaluation-fgsm")
    attacked = [run / "evaluation-fgsm" for run in ce]
    for chosen, expected in [
        ([*ce, again, other_data], [ce, [again], [other_data]]),
        (attacked, [attacked]),
        ([ce[0], attacked[1]], [ce[:1], attacked[1:]]),
        ([*attacked, ce[1] / "evaluation", ce[0]], [attacked, [ce[1] / "evaluation", ce[0]]]),
    ]:
        groups = group_runs([read_run(path) for path in chosen])
        assert [[run.path for run in group.runs] for group in groups] == expected
        assert len({group.name for group in groups}) == len(groups)
    assert [group.name for group in groups] == ["digits_ce, fgsm", "digits_ce"]
    assert read_run(attacked[0]).validation["top1"][-1] == (3, 0.9), "the run's log, one folder up"


def test_comparison_on_the_terminal(
    six_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "out" / "compare.html"
    tyro.cli(compare, args=[*map(str, six_runs), "--out", str(page.parent)], config=HELP)
    printed = capsys.readouterr().out
    assert printed.endswith(f"page: {page}\n")
    for text in ("92.00", "± 2.65", "94.00*", "0.4000*", "0.7000", "3 seeds", "[red]bare", "weight=3.0"):
        assert text in printed, text
    assert "Top-5" not in printed, "a column that no run has"
    assert max(map(len, printed.splitlines()[:-1])) <= 80


@pytest.mark.browser
def test_comparison_in_the_browser(
    six_runs: list[Path], tmp_path: Path, browse: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = compare(six_runs, tmp_path / "c.html", show=False)
    assert capsys.readouterr().out == ""
    dom = browse(path)
    assert_self_contained(dom)
    text = text_of(dom)
    for shown in (
        "6 runs of 4 recipes", "92.00 ± 2.65", "★ 94.00", "★ 0.4000", "seed 2 of digits_ce (weight=1.0) 95.00",
        "ce, resnet10t, 3 seeds", f"{EVIL} ce, resnet10t ", "[red]bare 50.00 –", "95.00% at the end",
    ):  # fmt: skip
        assert shown in text, shown
    labels = ["Validation top-1", "Validation NLL"] + ["Reliability diagram"] * 4
    assert re.findall(r'aria-label="([^"]+)"', dom) == labels
    assert dom.count("<polyline") == 5 * 2 + 3, "five runs with logs in two plots, three lines in the legend"
    assert [frame["overflow"] for frame in measure(browse, path)] == [0, 0]


def test_comparison_warns_of_different_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        make_run(tmp_path / "a", top1=0.9, recipe=recipe()),
        make_run(tmp_path / "b", top1=0.8, num_samples=1000, data="train <set>", ood=["svhn"]),
    ]
    text = text_of(compare(runs, tmp_path).read_text())
    printed = " ".join(capsys.readouterr().out.split())
    for warning in (
        "different numbers of images (digits_ce: 4, b: 1,000)", "different data (digits, train <set>)",
        "different images of no known class (['svhn'], [])",
    ):  # fmt: skip
        assert warning in printed
        assert warning in text


def test_validation_log_of_a_run_that_crashed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", top1=0.9, recipe=recipe())
    entries = [
        {"event": "validate", "epoch": 2, "top1": 0.4, "nll": 1.0},
        {"event": "validate", "epoch": 1, "top1": 0.2, "nll": math.nan},
        {"event": "step", "epoch": 2, "top1": 9.0},
        {"event": "validate", "epoch": 2, "top1": 0.5, "nll": 0.9},  # once more, after the resume
    ]
    text = (
        "\n".join(map(json.dumps, [[1], *entries, {"event": "validate", "top1": None}]))
        + '\n{"event": "validate", "epoch": 3, "to'
    )
    (run / "metrics.jsonl").write_text(text)
    assert read_run(run).validation == {"top1": [(2, 0.2), (3, 0.5)], "nll": [(3, 0.9)]}, "from 1, as on the console"
    assert "Validation top-1" in compare([run], tmp_path).read_text()
    (run / "metrics.jsonl").write_text(text.splitlines()[1])
    assert "Validation top-1" not in compare([run], tmp_path).read_text(), "a single validation is no curve"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"run/metrics.json is missing; `skd evaluate .*run --data \.\.\.` writes it"),
        ("{", r"run/evaluation/metrics.json is not a file of metrics \(delete it, and skd evaluate writes it again\)"),
        ("[" * 10**5, "is not a file of metrics .*recursion limit"),
        ('{"metrics": {}}', "is not a file of metrics .*reliability: Field required"),
    ],
)
def test_missing_and_broken_metrics_name_the_file_and_the_command(
    tmp_path: Path, content: str | None, message: str
) -> None:
    run = make_run(tmp_path / "run", top1=0.9)
    file = run / "evaluation" / "metrics.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(SkdError, match=message):
        compare([run], tmp_path)
    with pytest.raises(SkdError, match="nothing to compare"):
        compare([], tmp_path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e4), st.integers(3, 8))
def test_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    assert 1 <= len(ticks) <= count + 1
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = np.diff(ticks)
    if len(steps):
        assert steps == pytest.approx(steps[0], rel=1e-3)
        mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0] * 1.0001))
        assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 0.01
    assert nice_ticks(0, 3, 6, integer=True) == [0, 1, 2, 3], "there is no epoch 0.5"


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_flat_curves(level: float) -> None:
    drawn = curve_plot("x", [Series("a", 0, [(0.0, level), (1.0, level)])], percent=True)
    heights = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", drawn)]
    assert len(heights) == 2
    assert all(0 <= y <= 300 for y in heights), "not NaN either"
