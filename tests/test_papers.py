"""The artefacts as data, the published numbers, addresses and verdicts; nothing is trained here."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from skd_plugins.cli import main
from skd_plugins.common.errors import SkdError
from skd_plugins.papers.pages.figure_data import FIGURES
from skd_plugins.papers.pages.results import Result, base_of, derive, lay_out
from skd_plugins.papers.reproduce import describe
from skd_plugins.papers.runs.address import address_of, data_checksum
from skd_plugins.papers.runs.estimate import Estimator, cost_of
from skd_plugins.papers.runs.inputs import Datasets, Workers
from skd_plugins.papers.runs.jobs import Plan
from skd_plugins.papers.runs.mini import mini_recipe
from skd_plugins.papers.runs.scores import EVALUATIONS
from skd_plugins.papers.runs.store import Store
from skd_plugins.papers.tables import ARTEFACTS, find_artefact
from skd_plugins.papers.tables.artefact import Artefact
from skd_plugins.papers.tables.published import METRICS, Published, in_printed_unit, published
from skd_plugins.recipe import Recipe, replace
from skd_plugins.training import project
from skd_plugins.training.plan import make_plan
from skd_plugins.training.project import init

ALL = list(ARTEFACTS.values())
IDS = [artefact.id for artefact in ALL]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The papers' setting, one seed, without data."""
    return Plan(ALL, Datasets("full", tmp_path_factory.mktemp("none")), 1)


def test_there_are_34() -> None:
    kinds = Counter((id.partition("/")[0], "figure" in id) for id in IDS)
    assert kinds == {("cs-kd", False): 7, ("cs-kd", True): 10, ("sd-dropout", False): 14, ("sd-dropout", True): 3}
    for artefact in ALL:
        assert (artefact.kind == "figure") == ("figure" in artefact.id) == (artefact.figure in FIGURES)
        assert artefact.entries
        assert set(artefact.wanted) <= set(EVALUATIONS)


def test_every_published_number_belongs_to_one_training_of_one_artefact() -> None:
    rows = published()
    assert len(rows) == len(set(rows)) == 524
    assert Counter(row for artefact in ALL for row in artefact.numbers) == Counter(rows)
    for artefact in ALL:
        places = Counter()
        for row in artefact.numbers:
            (entry,) = [entry for entry in artefact.entries if entry.has(row)]
            assert artefact.entry_of(row) is entry
            if not row.derived:
                metric = METRICS[row.metric]
                places[id(entry), metric.evaluation, metric.key.format(**row.settings), row.metric] += 1
        assert not places or set(places.values()) == {1}, "two numbers would get the same value of ours"


def test_derived_numbers_recompute() -> None:
    """The papers' changes and gains follow from the cells beside them, up to rounding."""
    derived = [row for row in published() if row.derived]
    assert len(derived) == 33
    off = []
    for row in derived:
        value, base = base_of(row, [other for other in published() if other.id == row.id])
        again = derive(row.metric, value.number, base.number)
        assert abs(again - row.number) <= (0.1 if row.metric == "top1_acc_gain_points" else 0.06) + 1e-9, row
        if f"{again:.1f}" != f"{row.number:.1f}":
            off.append((row.method, row.dataset))
    assert off == [
        ("CS-KD+SD-Dropout", "CUB-200-2011"), ("DDGSD+SD-Dropout", "Stanford Dogs"),
        ("DML+SD-Dropout", "Stanford Dogs"), ("LS+SD-Dropout", "CUB-200-2011"),
    ]  # fmt: skip


@pytest.mark.parametrize(("id", "word", "mean"), [("table6", "corruption", "mean"), ("table7", "ood", "average")])
def test_printed_means_recompute(id: str, word: str, mean: str) -> None:
    rows = find_artefact(f"sd-dropout/{id}").numbers
    means = [row for row in rows if row.settings[word] == mean]
    assert means
    for row in means:
        metric = "corruption_acc" if row.metric == "mca" else row.metric
        parts = [
            other.number for other in rows
            if other.method == row.method and other.metric == metric and other.settings[word] != mean
        ]  # fmt: skip
        assert len(parts) in (4, 15)
        assert sum(parts) / len(parts) == pytest.approx(row.number, abs=0.08)


def test_units() -> None:
    assert {row.metric for row in published()} == set(METRICS)
    assert in_printed_unit("top1_error", 0.75) == pytest.approx(25)
    assert in_printed_unit("top1_acc", 0.75) == pytest.approx(75)
    assert in_printed_unit("ece_percent", 0.051) == pytest.approx(5.1)
    assert in_printed_unit("ece_fraction", 0.051) == pytest.approx(0.051)
    assert in_printed_unit("r1", 0.2799) == 0.2799


@pytest.mark.parametrize("artefact", ALL, ids=IDS)
def test_the_plan_says_runs_evaluations_and_numbers(artefact: Artefact, plan: Plan, tmp_path: Path) -> None:
    text = describe(artefact, plan, Store(tmp_path), "2.00 of 3.00 hours")
    assert artefact.title in text
    assert f"evaluations  {', '.join(artefact.wanted)}" in text
    assert f"published    {len(artefact.numbers)} numbers" in text
    assert "2.00 of 3.00 hours" in text
    jobs = plan.jobs_of(artefact)
    assert jobs
    for job in jobs:
        assert job.address in text
    assert text.count("\n      run  ") == len(artefact.entries)
    for row in artefact.numbers:
        assert f"{row.label} {row.text}" in text
    if artefact.numbers:  # every number has one place
        results = [Result(row, ()) for row in artefact.numbers]
        cells = [cell for row in lay_out(artefact, results)[1].values() for cell in row]
        assert sorted(map(id, results)) == sorted(id(result) for cell in cells for result in cell)
        assert all(sum(not result.published.derived for result in cell) <= 1 for cell in cells)


def test_plans_share_runs(plan: Plan) -> None:
    def of(id: str, method: str, dataset: str) -> set[str]:
        artefact = find_artefact(id)
        entries = [one for one in artefact.entries if (one.method, one.dataset) == (method, dataset)]
        return {job.address for entry in entries for job in plan.jobs_of(artefact, entry)}

    assert of("cs-kd/table2", "CS-KD", "MIT67") <= of("cs-kd/table1", "CS-KD", "MIT67")
    assert of("cs-kd/figure9", "CS-KD", "Stanford Dogs") <= of("cs-kd/table1", "CS-KD", "Stanford Dogs")
    # The papers have the same network and schedule on CUB-200-2011, but another network on CIFAR-100.
    assert of("sd-dropout/table1", "Cross-Entropy", "CUB-200-2011") <= of(
        "cs-kd/table1", "Cross-entropy", "CUB-200-2011"
    )
    assert not of("sd-dropout/table1", "Cross-Entropy", "CIFAR-100") & of("cs-kd/table1", "Cross-entropy", "CIFAR-100")
    assert len(plan.jobs) == 231 < sum(len(plan.needed(artefact)) for artefact in ALL)
    # The grid's printed best (T = 4, weight 1) is Table 1's run.
    assert of("cs-kd/table7", "CS-KD", "CIFAR-100") & of("cs-kd/table1", "CS-KD", "CIFAR-100")


def test_students_and_detectors_come_after_what_they_start_from(plan: Plan) -> None:
    first, second = plan.levels
    assert {job.needs.recipe.method for job in second if job.needs and not job.config} == {"cs_kd"}
    assert all(job.needs in first for job in second)
    assert sorted(job.config for job in second if job.config) == [
        "faster_rcnn_ce", "faster_rcnn_ce_0.5x", "faster_rcnn_sdd", "faster_rcnn_sdd_0.5x",
    ]  # fmt: skip
    assert {job.needs.recipe.model for job in second if job.config and job.needs} == {"resnet152"}


def test_seeds_are_the_papers_unless_they_are_given(tmp_path: Path) -> None:
    table1, grid = find_artefact("cs-kd/table1"), find_artefact("cs-kd/table7")
    plan = Plan([table1, grid], Datasets("full", tmp_path))
    assert len(plan.jobs_of(table1)) == 3 * 60
    assert len(plan.jobs_of(grid)) == 48
    assert len(Plan([grid], Datasets("full", tmp_path), 2).jobs) == 2 * 48
    assert {job.recipe.seed for job in plan.jobs_of(table1)} == {0, 1, 2}


OTHER: dict[str, Any] = {
    "num_classes": 7, "initial_weights": "x.pt", "max_steps": 3, "schedule": "cosine", "milestones": (1,),
    "clip_grad": 1.0, "ema_decay": 0.9, "augment": "shift", "interpolation": "bicubic", "precision": "bf16",
    "scale": (0.5, 1.0), "ratio": (1.0, 2.0), "mean": (0.1, 0.2, 0.3), "std": (0.1, 0.2, 0.3), "trackers": (),
    "method_args": {"weight": 2.0}, "model_args": {"channels": [8]}, "hflip": 0.25, "crop_pct": 0.5,
    "label_smoothing": 0.2, "eval_batch_size": 8, "train_sizes": ((0.0, 32), (0.5, 64)),
    "auto_augment": "3a", "freeze": "body",
    "loss": "bce", "bce_threshold": 0.2, "layer_decay": 0.5, "clip_mode": "agc", "optimizer_args": {"fused": True},
}  # fmt: skip
# What a field needs to have an effect.
NEEDED: dict[str, dict[str, Any]] = {
    "clip_mode": {"clip_grad": 1.0}, "ema_warmup": {"ema_decay": 0.9}, "bce_sum": {"loss": "bce"},
    "bce_threshold": {"loss": "bce"},
}  # fmt: skip
HARMLESS = {
    "name", "dataset", "eval_batch_size", "workers", "validate_every", "save_every", "save_minutes", "log_every",
    "trackers",
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_the_address_has_what_can_change_the_result(field: str) -> None:
    base = replace(Recipe(name="a.b"), **NEEDED.get(field, {}))
    old = getattr(base, field)
    if field in OTHER:
        new = OTHER[field]
    elif isinstance(old, bool):
        new = not old
    elif isinstance(old, str):
        new = f"{old}x"
    else:
        new = old + 1
    other = replace(base, **{field: new})
    assert getattr(other, field) != old
    assert (address_of(base, "d") == address_of(other, "d")) == (field in HARMLESS)


def test_fields_that_came_later_leave_addresses_alone() -> None:
    """The address of a run from before."""
    assert address_of(Recipe(name="a.b"), "d") == "8f4ad7881d30e164"


def test_the_address_has_data_teacher_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Recipe(name="a.b")
    address = address_of(base, "d")
    assert address == address_of(replace(base, name="c", workers=1), "d")
    others = {address_of(base, "e"), address_of(base, "d", network="f")}
    monkeypatch.setattr("skd_plugins.papers.runs.address.RESULTS_VERSION", 999)
    others.add(address_of(base, "d"))
    assert len(others | {address}) == 4


def test_the_address_of_a_detector_has_its_configuration_with_what_it_is_based_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(tmp_path)
    monkeypatch.setattr(project, "_PACKAGE", tmp_path / "package")

    def addresses() -> dict[str, str]:
        plan = Plan([find_artefact("sd-dropout/table4")], Datasets("full", tmp_path), 1)
        return {job.config: job.address for job in plan.jobs.values() if job.config}

    before = addresses()
    assert addresses() == before
    changed = {
        "faster_rcnn_sdd": {"faster_rcnn_sdd", "faster_rcnn_sdd_0.5x"},  # a base
        "base_faster_rcnn": set(before),  # a base's base
        "faster_rcnn_r50_ce": set(),
    }
    for name, expected in changed.items():
        with (tmp_path / "detection" / "configs" / f"{name}.yaml").open("a") as file:
            file.write("SEED: 77\n")
        after = addresses()
        assert {config for config, address in after.items() if address != before[config]} == expected
        before = after


def test_the_checksum_of_data(tmp_path: Path, png_folder: Path) -> None:
    def made(name: str) -> Path:
        for half in ("train", "val"):
            shutil.copytree(png_folder, tmp_path / name / half)
        return tmp_path / name

    same, other, renamed = made("a"), made("b"), made("c")
    assert data_checksum(same) == data_checksum(made("d"))
    first = sorted(other.rglob("*.png"))[0]
    damaged = bytearray(first.read_bytes())
    damaged[-20] ^= 1
    first.write_bytes(damaged)
    second = sorted(renamed.rglob("*.png"))[0]
    second.rename(second.with_name("zz.png"))
    assert len({data_checksum(path) for path in (same, other, renamed)}) == 3
    with pytest.raises(SkdError, match="does not exist"):
        data_checksum(tmp_path / "nowhere")


def test_the_checksum_of_beton_files_is_the_writers(tmp_path: Path) -> None:
    for half in ("train", "val"):
        (tmp_path / f"{half}.beton").write_bytes(half.encode())
        (tmp_path / f"{half}.beton.json").write_text(json.dumps({"sha256": f"sum of {half}"}))
    assert data_checksum(tmp_path) == "sum of train+sum of val"
    data_checksum.cache_clear()
    (tmp_path / "val.beton.json").unlink()  # somebody else's file
    assert data_checksum(tmp_path) == f"sum of train+{hashlib.sha256(b'val').hexdigest()}"


def number(value: str, std: str = "") -> Published:
    return Published("cs-kd", "table1", "", "CS-KD", "ResNet-18", "MIT67", "top1_error", value, std, "lower")


@pytest.mark.parametrize(
    ("value", "std", "ours", "verdict"),
    [
        ("40.45", "0.45", (40.0, 40.9), "agrees within the stated std"),
        ("40.45", "0.45", (40.90,), "agrees within the stated std"),
        ("40.45", "0.45", (40.905,), "agrees within the stated std"),  # by rounding 40.45 and 40.454 are the same
        ("40.45", "0.45", (40.91,), "differs"),
        ("40.45", "0.45", (39.9,), "differs"),
        ("40.45", "0.45", (38.0, 43.0), "agrees within the stated std"),  # our own spread does not count there
        ("40.45", "0.45", (), "not run"),
        ("77.0", "", (76.0, 77.0, 77.4), "agrees within our std, none is stated"),
        ("77.0", "", (76.0, 76.1, 76.2), "differs"),
        ("77.0", "", (77.04,), "agrees to the printed digits, no std is known"),
        ("77.0", "", (77.06,), "differs"),
    ],
)
def test_verdicts(value: str, std: str, ours: tuple[float, ...], verdict: str) -> None:
    result = Result(number(value, std), ours)
    assert result.verdict == verdict
    assert result.outcome == (verdict if verdict in ("differs", "not run") else "agrees")
    mini = Result(number(value, std), ours, compared=False)
    assert mini.verdict.startswith("not ")
    assert mini.difference_text == "–"


def test_the_mini_scale_keeps_the_method(plan: Plan) -> None:
    recipes = [job.recipe for job in plan.jobs.values()]
    assert len({recipe.model for recipe in recipes}) == 12
    for recipe in recipes:
        small = mini_recipe(recipe)
        assert (small.method, small.method_args, small.mixup) == (recipe.method, recipe.method_args, recipe.mixup)
        assert small.model_args.get("classifier") == recipe.model_args.get("classifier")
        assert small.epochs < recipe.epochs


def test_costs() -> None:
    assert cost_of("ce", {}) == 1
    assert cost_of("sd_dropout", {"weight": 1.0}) == 1
    assert cost_of("sd_dropout", {"base": "cs_kd"}) == pytest.approx(4 / 3)
    assert cost_of("kd", {"base": "cs_kd"}) == pytest.approx(5 / 3)


def test_an_estimate_is_measured_once(tmp_path: Path, plan: Plan) -> None:
    job = next(job for job in plan.jobs.values() if job.recipe.model == "preact_resnet10_cifar")
    estimator = Estimator(tmp_path / "steps.json")
    hours = estimator.hours([job])
    assert hours > 0
    assert "measured on" in estimator.basis
    again = Estimator(tmp_path / "steps.json")
    assert again.steps == estimator.steps
    assert again.hours([job, job]) == pytest.approx(2 * hours)


@pytest.mark.slow
def test_every_training_of_the_papers_can_be_made(plan: Plan) -> None:
    recipes = {
        str((job.recipe.model, job.recipe.model_args, job.recipe.method, job.recipe.method_args, job.recipe.mixup)):
        job.recipe for job in plan.jobs.values()
    }  # fmt: skip
    assert len(recipes) > 100
    for recipe in recipes.values():
        if recipe.method == "kd":  # its teacher is a run that is not there
            recipe = replace(recipe, method=recipe.method_args["base"], method_args={})
        assert make_plan(recipe)["steps"] > 1000


BAD = {
    "a name": (["cs-kd/tabel1"], "unknown artefact 'cs-kd/tabel1'; did you mean 'cs-kd/table1'?"),
    "no name": ([], "which artefact? skd reproduce --list shows all; skd reproduce all makes all"),
    "seeds": (["cs-kd/table1", "--seeds", "0"], "--seeds should be at least 1, got 0"),
    "slurm": (["cs-kd/table5", "--slurm", "gpu"], "--slurm takes name=value, such as partition=gpu; got 'gpu'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = BAD[name]
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_slurm_parameters() -> None:
    workers = Workers(slurm=("partition=gpu", "timeout_min=600", "constraint=a100"))
    expected = {"slurm_partition": "gpu", "timeout_min": 600, "slurm_constraint": "a100"}
    assert workers.slurm_parameters() == expected


def test_the_readme_shows_all_of_them() -> None:
    """Its table is the ``index.md`` of ``make reproduce-mini``; how far that got is for `test_reproduce`."""
    text = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text()
    table = text.partition("<!-- reproduce -->")[2].partition("<!-- /reproduce -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if " of " in line]
    expected = [[artefact.id, artefact.title, len(artefact.numbers)] for artefact in ALL]
    assert [[row[0], row[1], int(row[3].split()[2]) if "numbers" in row[3] else 0] for row in rows] == expected
