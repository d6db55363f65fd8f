"""``skd reproduce`` at the mini scale, and the pages of made-up results. Killed: tests/faults/interrupted.py."""

import csv
import dataclasses
import html
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import submitit
import torch

from skd_plugins.cli import main
from skd_plugins.common.environment import machine
from skd_plugins.common.errors import SkdError
from skd_plugins.papers.pages.output import tex, write_artefact, write_index
from skd_plugins.papers.pages.results import results_of
from skd_plugins.papers.runs import execute as execution
from skd_plugins.papers.runs.execute import execute
from skd_plugins.papers.runs.inputs import Datasets, Workers
from skd_plugins.papers.runs.jobs import Job, Plan
from skd_plugins.papers.runs.mini import NOTICE, mini_recipe
from skd_plugins.papers.runs.scores import Subject
from skd_plugins.papers.runs.store import Store
from skd_plugins.papers.runs.worker import work, write_job
from skd_plugins.papers.tables import find_artefact
from skd_plugins.papers.tables.artefact import Artefact
from skd_plugins.papers.tables.published import METRICS, in_printed_unit
from skd_plugins.recipe import replace
from skd_plugins.training.engine import train
from skd_plugins.training.project import recipe_of

ROOT = Path(__file__).parents[1]
CHEAP = ("cs-kd/figure8", "sd-dropout/table13")  # two runs each


def mini_plan(out: Path, id: str) -> tuple[Plan, Store]:
    return Plan([find_artefact(id)], Datasets("mini", out / "mini" / "data")), Store(out / "mini")


def finished(root: Path) -> dict[Path, int]:
    """When the files of complete trainings and evaluations were written."""
    done = [path.parent for path in root.glob("runs/*/trained.json")]
    files = [file for run in done for file in (*run.glob("*/seed*/*.pt"), run / "trained.json")]
    files += root.glob("runs/*/evaluation/*.json")
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_table_and_a_figure_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "mini"
    scale = ["--scale", "mini", "--jobs", "1", "--out", str(tmp_path)]
    main(["reproduce", *CHEAP, *scale, "--commands"])
    first, *others = capsys.readouterr().out.splitlines()
    assert len(others) == 3
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(first, shell=True, env=environment, check=True)
    main(["reproduce", *CHEAP, *scale])
    assert "runs: 4, of them 1 done, 3 to do" in capsys.readouterr().out
    before = finished(root)
    assert len(before) > 8
    main(["reproduce", *CHEAP, *scale])
    assert "runs: 4, of them 4 done, 0 to do" in capsys.readouterr().out
    assert finished(root) == before, "nothing is repeated"

    check_table(find_artefact("sd-dropout/table13"), *mini_plan(tmp_path, "sd-dropout/table13"))
    check_figure(root / "artefacts" / "cs-kd" / "figure8")
    main(["reproduce", "--list", *scale])
    states = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert all(" written " in states[id] for id in CHEAP)
    assert " not run " in states["cs-kd/table5"]
    index = (root / "index.html").read_text()
    assert "2 of 34 written" in index
    assert NOTICE.replace("'", "&#39;") in index
    for id in CHEAP:
        assert f'href="artefacts/{id}/index.html"' in index
        assert (root / "artefacts" / id / "index.html").is_file()
    text = (root / "index.md").read_text()
    assert "Scale mini: 4 trainings in 0.0" in text
    assert f"(4 on {machine()})" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| cs-kd/", "| sd-dropout/"))]
    made = {row[0][2:]: row[2:] for row in rows}
    assert len(made) == 34
    assert made["sd-dropout/table13"] == ["2 of 2", "2 of 2 numbers |"]
    assert made["cs-kd/figure8"] == ["2 of 2", "1 picture |"]
    assert made["cs-kd/table5"] == ["–", "not written |"]


def check_table(artefact: Artefact, plan: Plan, store: Store) -> None:
    """All four files have the same numbers; at the mini scale there is no verdict."""
    folder, name = store.artefact(artefact.id), artefact.id.rpartition("/")[2]
    results = results_of(artefact, plan, store)
    assert results
    assert all(result.ours for result in results)
    page, text, latex = ((folder / file).read_text() for file in ("index.html", f"{name}.md", f"{name}.tex"))
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
    assert len(rows) == len(results)
    compared = plan.datasets.scale == "full"
    for result, row in zip(results, rows, strict=True):
        assert row["value"] == result.published.value
        assert " ± ".join(part for part in (row["ours"], row["ours_std"]) if part) == result.ours_text
        assert row["verdict"] == result.verdict
        line = f"| {result.ours_text} | {len(result.ours)} | {result.published.text} | {result.difference_text} |"
        assert f"{line} {result.verdict} |" in text
        assert tex(result.ours_text) in latex
        assert f">{result.ours_text}</td>" in page
        assert (html.escape(result.verdict).replace("&#x27;", "&#39;") + "</td>" in page) == compared
        assert (result.outcome in ("agrees", "differs")) == compared
    for file in (page, text, latex):
        assert ("This is not a reproduction" in file) == (not compared)
        assert compared or "differs" not in file


def check_figure(folder: Path) -> None:
    assert (folder / "figure8.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure8.svg").read_text()
    facts = list(csv.reader((folder / "figure8.csv").read_text().splitlines()))[1:]
    assert len(facts) == 5
    for file in ("index.html", "figure8.md", "figure8.tex"):
        text = html.unescape((folder / file).read_text())
        assert all(number in text.replace("$", "") for _, number in facts), file
    assert "data:image/svg+xml;base64," in (folder / "index.html").read_text()


def pretend(plan: Plan, store: Store, artefact: Artefact, shift: float) -> None:
    """Fills a store with the published values, `shift` printed units up and down over the seeds."""
    for row in artefact.numbers:
        if row.derived:
            continue
        measure = METRICS[row.metric]
        jobs = plan.jobs_of(artefact, artefact.entry_of(row))
        for number, job in enumerate(jobs):
            store.finish(job.address, store.folder(job.address) / "run", 1.0)
            value = row.number + shift * (number - (len(jobs) - 1) / 2)
            unit = in_printed_unit(row.metric, 1.0) - in_printed_unit(row.metric, 0.0)
            path = store.evaluation(job.address, measure.evaluation)
            values = json.loads(path.read_text()) if path.is_file() else {}
            values[measure.key.format(**row.settings)] = (value - in_printed_unit(row.metric, 0.0)) / unit
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))


@pytest.mark.parametrize(("id", "seeds"), [("cs-kd/table1", 3), ("cs-kd/table7", 1), ("sd-dropout/table6", 2),
                                           ("sd-dropout/table7", 2), ("sd-dropout/table8", 1)])  # fmt: skip
def test_results_like_the_papers_agree(id: str, seeds: int, tmp_path: Path) -> None:
    artefact = find_artefact(id)
    plan, store = Plan([artefact], Datasets("full", tmp_path / "no data"), seeds), Store(tmp_path)
    assert {result.outcome for result in results_of(artefact, plan, store)} == {"not run"}
    pretend(plan, store, artefact, 0.02)
    results = results_of(artefact, plan, store)
    plain = [result for result in results if not result.published.derived]
    assert {result.outcome for result in plain} == {"agrees"}
    assert all(abs(result.difference or 0) < 1e-9 and len(result.ours) == seeds for result in plain)
    derived = [result for result in results if result.published.derived]
    assert bool(derived) == (id == "cs-kd/table1")
    assert all(abs(result.difference or 9) < 0.1 for result in derived), "computed from ours, rounded like theirs"
    write_artefact(artefact, plan, store)
    check_table(artefact, plan, store)
    pictures = sorted(path.name for path in store.artefact(id).glob("*.png"))
    assert pictures == (["table7-ours.png", "table7-paper.png"] if artefact.kind == "grid" else [])
    page = write_index(store, "full").read_text()
    assert "1 of 34 written" in page
    assert f"{sum(result.outcome == 'agrees' for result in results)} agree" in page


def test_missing_results_are_said(tmp_path: Path) -> None:
    table, figure = find_artefact("cs-kd/table5"), find_artefact("cs-kd/figure2")
    plan, store = Plan([table, figure], Datasets("full", tmp_path / "no data")), Store(tmp_path)
    page = write_artefact(table, plan, store).read_text()
    assert page.count("not run</td>") == 6
    assert "0 of 6 runs are complete" in page
    with pytest.raises(SkdError, match="skd data cifar100c says what to fetch"):
        plan.datasets.existing("cifar100c")
    page = write_artefact(figure, plan, store).read_text()
    assert "Not drawn: Cross-entropy, ResNet-18, CIFAR-100 has not been run." in page
    assert not list(store.artefact(figure.id).glob("*.png"))


def test_a_failure_is_noted_and_not_repeated_by_the_same_command(tmp_path: Path) -> None:
    plan, store = mini_plan(tmp_path, "cs-kd/table4")
    student, other = [job for job in plan.levels[1] if job.recipe.dataset == "cub200"]
    for job in (student, other):
        write_job(store, job, plan.datasets)
    (store.folder(other.address) / "job.json").write_text("damaged")
    addresses, began = [other.address, student.address], time.time()
    for _ in range(2):  # another worker of the same command
        work(store.root, addresses, began)
    assert [store.state(job) for job in (student, other)] == ["failed", "failed"]
    assert student.needs is not None
    assert store.error(student.address) == (
        f"{student.needs.address}, the run that this one starts from, is not complete; run it first"
    ), "its teacher is not there"
    log = store.folder(other.address) / "log.txt"
    assert store.error(other.address).startswith("JSONDecodeError")
    assert log.read_text().count("Traceback") == 1
    os.utime(log.with_name("error.txt"), (began - 60, began - 60))
    work(store.root, addresses)  # the command is given again
    assert log.read_text().count("Traceback") == 2


def test_a_student_that_was_begun_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--out`` is relative at first; workers and shell commands get the whole path."""
    plan, store = mini_plan(tmp_path, "cs-kd/table4")
    student = next(job for job in plan.levels[1] if job.recipe.dataset == "cub200")
    assert student.needs is not None

    def write(job: Job, steps: int) -> None:
        recipe = replace(job.recipe, max_steps=steps)
        write_job(store, dataclasses.replace(job, recipe=recipe, evaluations=set()), plan.datasets)

    write(student.needs, 2)
    write(student, 2)
    monkeypatch.chdir(tmp_path)
    work(Path("mini"), [student.needs.address, student.address])
    assert store.network(student.address)
    (store.folder(student.address) / "trained.json").unlink()
    write(student, 4)
    monkeypatch.chdir("/")
    work(store.root, [student.address])
    assert store.error(student.address) is None
    assert "from step 2 to 4" in (store.folder(student.address) / "log.txt").read_text()


def test_the_network_before_training_is_the_one_that_training_starts_from(tmp_path: Path) -> None:
    """Epoch 0 of SD-Dropout's Table 8."""
    datasets = Datasets("mini", tmp_path / "data")
    recipe = replace(mini_recipe(recipe_of("sdd_cifar100")), lr=0.0, weight_decay=0.0, epochs=1, save_every=1, seed=3)
    data = datasets.folder("cifar100")
    run = train(recipe, data=str(data), out=tmp_path)
    subject = Subject(run=run, folder=tmp_path, recipe=recipe, data=data, datasets=datasets)
    before, after = (list(model.parameters()) for model in (subject.untrained(), subject.network("epoch0001.pt")))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    with pytest.raises(SkdError, match=r"epoch0009.pt does not exist; the run was made without it"):
        subject.network("epoch0009.pt")


def test_a_page_stays_where_its_data_are_not_there_any_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both runs are complete (made up), then the command is given without ``--data``."""
    artefact, data = find_artefact("sd-dropout/table13"), Datasets("mini", tmp_path / "data")
    for dataset in {job.recipe.dataset for job in Plan([artefact], data).jobs.values()}:
        data.folder(dataset)
    plan, store = Plan([artefact], Datasets("full", data.root), 1), Store(tmp_path / "full")
    assert all(job.present for job in plan.jobs.values())
    pretend(plan, store, artefact, 0.0)
    arguments = ["reproduce", artefact.id, "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]
    main([*arguments, "--data", str(data.root)])
    folder = store.artefact(artefact.id)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "agrees" in before["table13.md"].decode()

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data", str(tmp_path / "elsewhere")])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert f"no data: {tmp_path / 'elsewhere' / 'cifar100'} is not there" in output.out
    assert f"{artefact.id}: its page stays as it was, since data of runs in it are not there now" in output.out
    assert "2 of 2 runs are left out: their data are not there" in output.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "2 agree" in (store.root / "index.html").read_text()


def test_failed_runs_are_an_error_after_the_pages_are_written(tmp_path: Path) -> None:
    plan, store = mini_plan(tmp_path, "sd-dropout/table13")
    for job in plan.jobs.values():
        store.folder(job.address).mkdir(parents=True)
        (store.folder(job.address) / job.recipe.name).write_text("in the way of the run's folder")
    arguments = ["reproduce", "sd-dropout/table13", "--scale", "mini", "--jobs", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert (store.root / "index.html").is_file()
    assert [store.state(job) for job in plan.jobs.values()] == ["failed", "failed"]


def test_one_worker_has_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path).locked("a", wait=False) as mine, Store(tmp_path).locked("a", wait=False) as other:
            assert (mine, other) == (True, False)


@pytest.mark.parametrize(
    ("visible", "count", "gpus"),
    [
        (None, 2, ["0", "1"]),
        ("5,GPU-8932f937", 2, ["5", "GPU-8932f937"]),
        ("3,1,-1,2", 2, ["3", "1"]),  # CUDA reads up to the first one that is not there
        ("", 0, []),
    ],
)
def test_gpus_have_the_names_of_the_environment(
    visible: str | None, count: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert execution._gpus() == gpus


def test_each_worker_sees_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In submitit's debugger, which runs the jobs in this process."""
    executor = submitit.AutoExecutor
    monkeypatch.setattr(submitit, "AutoExecutor", lambda folder, cluster: executor(folder, "debug"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    running = execution._submit_local(
        lambda addresses: os.environ["CUDA_VISIBLE_DEVICES"], ["a", "b", "c"], tmp_path, 3, ["5", "2"]
    )
    assert [one.result() for one in running] == ["5", "2", "5"]


def test_importing_the_work_does_not_use_cuda() -> None:
    """A worker chooses its GPU after that; CUDA would have read the choice before."""
    code = (
        "import torch; torch._C._cuda_getDeviceCount = torch._C._cuda_init = None; "
        "import skd_plugins.papers.runs.execute, skd_plugins.papers.runs.scores, skd_plugins.training.engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_workers_are_killed_and_others_share_the_runs_and_pass_networks_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of Table 4 on CUB-200-2011, where students need a teacher; two processes of submitit's."""
    table = find_artefact("cs-kd/table4")
    entries = tuple(entry for entry in table.entries if entry.dataset == "CUB-200-2011")
    part = dataclasses.replace(table, entries=entries)
    plan, store = Plan([part], Datasets("mini", tmp_path / "data")), Store(tmp_path)
    assert [len(level) for level in plan.levels] == [3, 2]

    def submit_and_kill(*arguments: Any) -> list[Any]:
        """As the kernel does when memory is out."""
        running, killed = submit(*arguments), set()
        while len(killed) < len(running):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has ended
                    words = (process / "cmdline").read_text().split("\0")
                    if "submitit.core._submit" in words and str(store.root / "submitit") in words:
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.add(process.name)
            time.sleep(0.1)
        return running

    submit = execution._submit_local
    with monkeypatch.context() as patch:
        patch.setattr(execution, "_submit_local", submit_and_kill)
        with pytest.raises(SkdError, match=r"3 of 5 runs are left, since workers ended early .* the same command goes"):
            execute(plan, store, Workers(jobs=2))
    capsys.readouterr()
    execute(plan, store, Workers(jobs=2))
    assert capsys.readouterr().out.count("] done: ") == 5
    assert {store.state(job) for job in plan.jobs.values()} == {"done"}
    for job in plan.levels[1]:
        log = (store.folder(job.address) / "log.txt").read_text()
        assert log.count("from step 0") == 1, "one worker trained it, once"
    top1 = [values["top1"] for job in plan.jobs.values() if (values := store.values(job.address, "clean"))]
    assert len(top1) == 4
    assert np.mean(top1) > 0.4, "they learn"
