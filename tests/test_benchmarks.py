"""Every benchmark runs with `--quick` and gives sound rows. What they measure is not asserted: that is `make bench`."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
sys.path.append(str(FOLDER))  # behind everything else: benchmarks/detection.py must not stand in for the package

import bench  # noqa: E402
from row import Row, table  # noqa: E402

NAMES = bench.names()
# They start several processes that import torch, or compile FFCV's loader, or use detectron2's ResNet-50.
SLOW = {"augmentation", "loader", "detection", "engine", "memory", "scaling", "timm_train", "predict", "parity"}
assert set(NAMES) > SLOW


def run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def check(content: dict[str, Any]) -> None:
    assert content["rows"], "no rows"
    assert {"command", "versions", "machine"} <= set(content)
    for row in content["rows"]:
        if row["value"] is None:
            assert row["verdict"] == "not run"
            assert row["note"]
            continue
        assert math.isfinite(row["value"])
        assert row["value"] >= 0
        assert all(math.isfinite(value) for value in row["rounds"])
        assert row["verdict"] in (("pass", "miss") if row["target"] is not None else ("",))


@pytest.mark.parametrize(
    "name",
    # order runs in test_bench_collects_writes_and_draws
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES if name != "order"],
)
def test_quick_runs(name: str, tmp_path: Path) -> None:
    printed = run(f"{name}.py", "--quick", "--json", str(tmp_path / "rows.json"))
    content = json.loads((tmp_path / "rows.json").read_text())
    check(content)
    assert all(row["name"] in printed for row in content["rows"])


@pytest.mark.parametrize("name", ["timm_train", "predict"])
def test_without_timms_repository_the_rows_say_so(name: str, tmp_path: Path) -> None:
    run(f"{name}.py", "--quick", "--json", str(tmp_path / "rows.json"), TIMM_REPOSITORY=str(tmp_path))
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows
    assert {row["verdict"] for row in rows} == {"not run"}
    assert all(str(tmp_path) in row["note"] for row in rows)


def test_bench_collects_writes_and_draws(tmp_path: Path) -> None:
    printed = run("bench.py", "--quick", "--only", "order", "--out", str(tmp_path))
    content = json.loads((tmp_path / "bench.json").read_text())
    assert list(content["benchmarks"]) == ["order"]
    check(content["benchmarks"]["order"])
    rows = bench.rows_of(content)
    assert [row.name for row in rows] == [row["name"] for row in content["benchmarks"]["order"]["rows"]]
    assert table(rows) in printed
    svg = (tmp_path / "bench.svg").read_text()
    assert svg.startswith("<?xml")
    assert all(row.name in svg for row in rows)


def test_verdicts() -> None:
    def verdict(value: float | None, target: float | None, sense: Any) -> str:
        return Row("a", "b", value, target=target, sense=sense).verdict

    assert verdict(1.02, 1.02, "<=") == verdict(1.2, 1.0, ">=") == "pass"
    assert verdict(1.03, 1.02, "<=") == verdict(0.9, 1.0, ">=") == "miss"
    assert verdict(None, 1.0, "<=") == "not run"
    assert verdict(1.0, None, None) == ""


def test_the_docs_have_the_committed_results() -> None:
    """``python benchmarks/bench.py --readme`` would change nothing."""
    text = bench.PAGE.read_text()
    assert all(text.count(marker) == 1 for marker in bench.MARKERS)
    assert text == bench.page(text, json.loads((FOLDER / "results" / "bench.json").read_text()))


def test_the_scaling_documents_numbers() -> None:
    """Parameters, bytes and bandwidths are those of the networks and the formula."""
    import timm
    import torch

    text = (ROOT / "docs" / "scaling.md").read_text()
    for name in ("resnet50", "resnet152", "resnext101_32x4d"):
        with torch.device("meta"):
            parameters = sum(p.numel() for p in timm.create_model(name, num_classes=1000).parameters())
        sent = {n: 4 * parameters * 2 * (n - 1) / n / 1e6 for n in (2, 8, 64)}
        cells = [f"{4 * parameters / 1e6:.1f} MB", *(f"{sent[n]:.1f} MB" for n in sent)]
        assert f"| {name} | {parameters:,} | {' | '.join(cells)} |" in text
        needed = [sent[n] * 2000 / b / 1e3 for n, b in ((8, 32), (64, 4), (64, 32), (64, 128))]
        assert f"| {name} | {' | '.join(f'{value:.1f}' for value in needed)} |" in text
    assert f"{round(88 * 1_281_167 / (77.2 * 60 * 8), -1):,.0f} images per second and GPU" in text
    assert f"{178.9e6 / (512 / 3000) / 1e9:.1f} GB/s out of each GPU" in text
    assert f"| {8 * 3000 * 309e3 / 1e9:.1f} GB/s | 309 kB" in text


@pytest.mark.slow
def test_gpu_runs_on_a_processor(tmp_path: Path) -> None:
    printed = run("gpu.py", "--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json"))
    content = json.loads((tmp_path / "gpu.json").read_text())
    check(content)
    assert content["rows"][0]["name"] in printed
    assert len(content["rows"]) == 11
    assert {row["name"]: row["note"] for row in content["rows"] if row["value"] is None} == {}
    assert {"images_per_second", "peak_bytes", "share_of_matrix_peak"} <= set(content["rows"][0]["detail"])


def test_gpu_without_time_says_what_it_did_not_run(tmp_path: Path) -> None:
    """A row for each part."""
    run("gpu.py", "--device", "cpu", "--quick", "--minutes", "0", "--json", str(tmp_path / "gpu.json"))
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["steps, resnet10t", "training loop, resnet10t", "detector"]
    assert all("give more --minutes" in row["note"] for row in rows)


def test_evidence_says_what_holds() -> None:
    """Verdicts of claims, from numbers whose differences are known."""
    import evidence_page

    from skd_plugins.commands.study import summarise

    noise = np.random.default_rng(0).normal(0, 0.001, (3, 8))
    noise -= noise.mean(1, keepdims=True)
    base = {"error": 0.1, "ece": 0.02, "recall_error": 0.1}
    changes = {"cross-entropy": {}, "CS-KD": {"error": -0.02, "ece": 0.03}, "CS-KD + SD-Dropout 0.1": {"error": 0.01}}
    runs = {
        name: [
            {key: value + changed.get(key, 0) + noise[row, seed] for key, value in base.items()} for seed in range(8)
        ]
        for row, (name, changed) in enumerate(changes.items())
    }
    rows = {
        line.split(" | ")[1]: line.split(" | ")[2] for line in evidence_page.claims(summarise(runs)).splitlines()[2:]
    }
    assert rows == {
        "lower error (CS-KD)": "**holds**",
        "better calibrated (CS-KD)": "**does not hold**",
        "better features (Recall@1) (CS-KD)": "not decided",
        "adds to other methods (CS-KD + SD-Dropout 0.1, against CS-KD)": "**does not hold**",
    }


def test_the_interval_over_typefaces() -> None:
    import evidence

    draw = np.random.default_rng(1).normal(0.3, 1, 129)
    low, high = evidence.bootstrap(draw)
    half = 1.96 * draw.std() / np.sqrt(129)
    assert (low, high) == pytest.approx((draw.mean() - half, draw.mean() + half), abs=0.02)
    assert len(evidence.families("test")) == 129
    assert set(evidence.families("other")) < set(evidence.families("test"))


def test_stamps_of_a_family_stay_together(tmp_path: Path) -> None:
    import stamps

    pairs = [f"{letter}ird{end}" for letter in "abcdefg" for end in ("", "2")]
    names = {"animals/birds": ["pig", "pig_golden", "pig-2", *pairs],
             "animals/birds/cartoon": ["drawn"], "household/tools": ["saw", "saw_mirror"],
             "symbols": ["sign"]}  # fmt: skip
    for folder, stems in names.items():
        (tmp_path / folder).mkdir(parents=True)
        for stem in stems:
            Image.new("RGBA", (30, 10), (200, 0, 0, 255) if stem == "pig" else (0, 0, 0, 0)).save(
                tmp_path / folder / f"{stem}.png"
            )
    found = stamps.photographs(tmp_path)
    assert {name: len(files) for name, files in found.items()} == {"animals/birds": 17, "household": 1}
    halves = stamps.split(found["animals/birds"])
    assert {half: len(files) for half, files in halves.items()} == {"test": 6, "val": 4, "train": 7}
    assert sorted(file for files in halves.values() for file in files) == sorted(found["animals/birds"])
    families = [{stamps.family(file) for file in files} for files in halves.values()]
    assert sum(map(len, families)) == len(set().union(*families)) == 8
    image = np.asarray(stamps.on_white(tmp_path / "animals/birds/pig.png"))
    assert image.shape == (stamps.SIDE, stamps.SIDE, 3)
    middle, edge = stamps.SIDE // 2, (stamps.SIDE - 30) // 2
    assert image[middle, edge].tolist() == [200, 0, 0], "a small stamp keeps its size, in the middle"
    assert image[middle, edge - 1].tolist() == image[0, 0].tolist() == [255, 255, 255]
    transparent = np.asarray(stamps.on_white(tmp_path / "animals/birds/aird.png"))
    assert (transparent == 255).all()


def test_the_page_has_the_committed_numbers() -> None:
    import finetune

    content = json.loads(finetune.RESULTS.read_text())
    page = (finetune.ROOT / "docs" / "tutorials" / "finetune.md").read_text()
    assert finetune.page(content) in page
    results = content["results"]
    assert list(results) == list(finetune.METHODS)
    for name, entries in results.items():
        values, baseline = (np.array(results[key]["error"]["values"]) for key in (name, "cross-entropy"))
        assert len(values) == 5
        assert entries["error"]["mean"] == pytest.approx(values.mean())
        if name != "cross-entropy":
            assert entries["error"]["difference"]["mean"] == pytest.approx((values - baseline).mean())
    assert sum(halves["test"] for halves in content["images"].values()) == 83
