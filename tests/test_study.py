"""Comparisons over seeds: the statistics against scipy's and by hand, and the command on a tiny recipe."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE
from faults.common import start, wait_for
from scipy import stats

from skd_plugins import SkdError, list_methods
from skd_plugins.commands.study import plans_of, study, summarise
from skd_plugins.evaluation import metrics
from skd_plugins.evaluation.significance import difference, fit_temperature, holm


def test_differences_are_paired() -> None:
    draw = np.random.default_rng(0)
    baseline = draw.normal(20, 5, 8)
    values = baseline - 0.5 + draw.normal(0, 0.3, 8)
    found = difference(values.tolist(), baseline.tolist())
    test = stats.ttest_rel(values, baseline)
    assert found["mean"] == pytest.approx((values - baseline).mean(), rel=1e-12)
    assert found["p"] == pytest.approx(test.pvalue, rel=1e-9)
    half = stats.t.ppf(0.975, 7) * (values - baseline).std(ddof=1) / np.sqrt(8)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=1e-9)
    assert found["p"] < 0.01 < stats.ttest_ind(values, baseline).pvalue, "only the pairs show it"


def test_equal_runs_do_not_differ() -> None:
    assert difference([1.0, 2.0], [1.0, 2.0])["p"] == 1


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_the_temperature_has_the_lowest_nll() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(2000, 5))
    noise = draw.gumbel(size=logits.shape)
    targets = torch.from_numpy((logits + noise).argmax(1))  # drawn from the softmax of the logits, so T = 1
    assert fit_temperature(torch.from_numpy(logits), targets) == pytest.approx(1, abs=0.1)
    found = fit_temperature(torch.from_numpy(7 * logits), targets)
    losses = {factor: metrics.nll(7 * logits / (factor * found), targets) for factor in (0.99, 1, 1.01)}
    assert min(losses, key=lambda factor: losses[factor]) == 1


def test_the_baseline_has_no_difference() -> None:
    runs = {"ce": [{"error": 0.3}, {"error": 0.5}], "cs_kd": [{"error": 0.2}, {"error": 0.3}]}
    summary = summarise(runs)
    assert "difference" not in summary["ce"]["error"]
    assert summary["cs_kd"]["error"]["difference"]["mean"] == pytest.approx(-0.15)
    assert summary["ce"]["error"]["mean"] == pytest.approx(0.4)
    assert summary["ce"]["error"]["std"] == pytest.approx(np.std([0.3, 0.5], ddof=1))


RECIPE = (
    f"from skd_plugins import Recipe, main\nrecipe = {TINY_RECIPE!r}\nif __name__ == '__main__':\n    main(recipe)\n"
)


def test_a_study(tmp_path: Path, digits_beton: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains, evaluates on two data sets, and continues where it was; the runs differ in what the variant says."""
    script = tmp_path / "tiny.py"
    script.write_text(RECIPE)
    out = tmp_path / "out"
    for half in ("train", "val"):
        (tmp_path / half).mkdir()
        for file in digits_beton.glob(f"{half}.beton*"):
            shutil.copy(file, tmp_path / half / file.name.replace("train", "val"))
    variants = ("ce max_steps=2", "cs_kd weight=0.5 max_steps=2")

    def run(test: str = "train", jobs: int = 1) -> dict[str, object]:
        study(
            script,
            data=digits_beton,
            test=tmp_path / test,
            variants=variants,
            seeds=2,
            first_seed=5,
            out=out,
            jobs=jobs,
        )
        result: dict[str, object] = json.loads((out / "study.json").read_text())["variants"]
        return result

    first = run(jobs=2)
    folder = out / "tiny.test.cs_kd-weight=0.5-max_steps=2" / "seed5"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["method"], recipe["method_args"], recipe["max_steps"], recipe["seed"]) == (
        "cs_kd",
        {"weight": 0.5},
        2,
        5,
    )
    measured = json.loads((folder / "evaluation-test/metrics.json").read_text())["metrics"]
    assert first[variants[1]]["error"]["values"][0] == pytest.approx(1 - measured["top1"])  # type: ignore[index]
    assert first[variants[1]]["scaled_nll"]["values"][0] < measured["nll"]  # type: ignore[index]
    changed = (folder / "last.pt").stat().st_mtime_ns
    assert run() == first
    assert (folder / "last.pt").stat().st_mtime_ns == changed, "a complete run is not repeated"
    other = run("val")[variants[1]]
    assert other["error"]["values"] != first[variants[1]]["error"]["values"], "measured again on the other images"  # type: ignore[index]
    assert "cs_kd weight=0.5" in capsys.readouterr().out
    assert (out / "study.md").read_text().startswith("| variant | error % |")


def test_all_methods_and_why_not(digits_beton: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = plans_of(TINY_RECIPE, ("all",), digits_beton)
    assert [next(iter(plans)), plans["ce"].method] == ["ce", "ce"]
    assert plans["adacos model_args.classifier=cosine"].method == "adacos"
    assert {plan.method for plan in plans.values()} == set(list_methods()) - {"byot", "dks", "kd"}
    left_out = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in left_out] == [["left out", name] for name in ("byot", "dks", "kd")]
    assert left_out[2].endswith("needs the argument 'teacher'")


@pytest.mark.parametrize(("changed", "message"), [
    ({"seeds": 1}, "a difference needs at least 2"),
    ({"variants": ("ce",)}, "at least two different ones"),
    ({"variants": ("ce", "ce")}, "at least two different ones"),
    ({"variants": ("ce", "cskd")}, "cs_kd"),
    ({"variants": ("ce", "cs_kd wait=1")}, "wait"),
    ({"variants": ("ce", "ce lr=high")}, "lr should be"),
    ({"variants": ("ce", "ce mixup=1 batch_size=9")}, "an even number of images"),
])  # fmt: skip
def test_bad_input_is_said_before_hours_are_spent(
    tmp_path: Path, digits_beton: Path, changed: dict[str, object], message: str
) -> None:
    (tmp_path / "tiny.py").write_text(RECIPE)
    with pytest.raises(SkdError, match=message):
        study(tmp_path / "tiny.py", **{"data": digits_beton, "out": tmp_path / "out", **changed})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def begun_study(folder: Path, data: Path, epochs: int) -> subprocess.Popen[str]:
    (folder / "tiny.py").write_text(RECIPE)
    variants = [f"ce epochs={epochs}", f"cs_kd epochs={epochs}"]
    command = ["study", "tiny.py", "--data", str(data), "--variants", *variants, "--seeds", "2", "--jobs", "1"]
    return start("-m", "skd_plugins.cli", *command, cwd=folder, stdout=None, stderr=None)


@pytest.mark.parametrize("validating", [False, True])
def test_no_process_outlives_a_killed_study_and_a_training_saves(
    validating: bool, tmp_path: Path, digits_beton: Path
) -> None:
    """In its last validation a training no longer looks for signals, so its process has to."""
    epochs, step = (1, 17) if validating else (900, 1)  # the last step of 200 images, or any
    process = begun_study(tmp_path, digits_beton, epochs)
    run = tmp_path / "runs" / "study" / f"tiny.test.ce-epochs={epochs}" / "seed0"
    log = run / "metrics.jsonl"
    wait_for(lambda: log.exists() and f'"step": {step},' in log.read_text())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert ("stopped by signal" in run.with_name("seed0.log").read_text()) is not validating
    assert (run / "last.pt").exists()


def test_a_temperature_is_never_fitted_on_what_is_reported(tmp_path: Path, digits_beton: Path) -> None:
    (tmp_path / "tiny.py").write_text(RECIPE)
    with pytest.raises(SkdError, match="--test .* has the images that fit the temperature"):
        study(tmp_path / "tiny.py", data=digits_beton, test=digits_beton / "val.beton", out=tmp_path / "out")
