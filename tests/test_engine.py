"""The training loop: it learns, it resumes bit-equally, and several processes do what one does."""

import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_RECIPE

from skd_plugins import Recipe, create_model, make_loader, replace, train
from skd_plugins.common.errors import SkdError
from skd_plugins.data import Source, open_source, write_beton
from skd_plugins.data.augment import Augmentation
from skd_plugins.data.beton.write import write_folder
from skd_plugins.data.sources import image_folder
from skd_plugins.methods.task import MethodTask
from skd_plugins.training import engine
from skd_plugins.training.process import choose_kernels, seed_step

ROOT = Path(__file__).parents[1]
RUN = Path("tiny.test", "seed0")
GROUP_NORM = {"channels": [8, 8, 16, 16], "norm_layer": "groupnorm1"}
Fit = Callable[..., Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """56 training and 13 validation digits, as `.beton` and as folders. 56 = 4 * 12 + 8: a short last step."""
    root = tmp_path_factory.mktemp("engine")
    for half, count in (("train", 56), ("val", 13)):
        source = open_source("digits", half == "train")
        first = np.stack([np.flatnonzero(source.targets == label)[:6] for label in range(10)], axis=1).ravel()
        part = _take(source, first[:count])
        write_beton(part, root / "beton" / f"{half}.beton", raw_share=1.0, workers=1)
        write_folder(part, root / "folder" / half)
    return {"beton": root / "beton", "folder": root / "folder"}


def _take(source: Source, keep: np.ndarray) -> Source:
    targets, load = source.targets[keep], lambda index: source.load(int(keep[index]))
    return dataclasses.replace(source, targets=targets, load=load, name_of=lambda index: f"digit {index}")


@pytest.fixture
def fit(data: dict[str, Path], tmp_path: Path) -> Fit:
    """Trains the tiny recipe with changes, from a kind of `data` or a folder; `out` is a folder of the test's."""

    def run(out: str = "", *, on: str | Path = "beton", resume: bool = False, **changes: Any) -> Path:
        recipe = replace(TINY_RECIPE, **changes)
        return train(recipe, data=str(data.get(str(on), on)), out=tmp_path / out, resume=resume)

    return run


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Bit-equal tensors, equal values."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key != "card":  # names the command
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def checkpoint(run: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(run / name, weights_only=True)


# ---- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ce", "cs_kd", "sd_dropout"])
def test_overfits_16_images(method: str, fit: Fit, tmp_path: Path) -> None:
    source = open_source("digits", True)
    keep = np.concatenate([np.flatnonzero(source.targets == label)[:2] for label in range(8)])
    for half in ("train", "val"):
        write_beton(_take(source, keep), tmp_path / "data" / f"{half}.beton", raw_share=1.0, workers=1)
    run = fit(
        on=tmp_path / "data", method=method, method_args={"weight": 0.1} if method == "sd_dropout" else {}, epochs=60,
        batch_size=16, padding=0, schedule="cosine", validate_every=60, log_every=60, momentum=0.9, lr=0.1,
    )  # fmt: skip
    last = lines(run, "validate")[-1]
    assert last["top1"] == 1.0
    assert last["nll"] < 0.3


def test_five_cs_kd_steps_equal_a_plain_script(data: dict[str, Path], fit: Fit) -> None:
    """The engine against a loop written from Algorithm 1 and Eq. 1 of CS-KD: bit-equal weights."""
    arguments = {"weight": 2.0, "temperature": 4.0}
    run = fit(method="cs_kd", method_args=arguments, max_steps=5, schedule="constant", epochs=3)

    seed_step(TINY_RECIPE.seed, 0, 0)
    net = create_model("resnet10t", num_classes=10, **TINY_RECIPE.model_args)
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    path, spec = data["beton"] / "train.beton", Augmentation.of(TINY_RECIPE)
    loader = make_loader(path, segments=("anchor", "pair"), batch_size=12, augmentation=spec, workers=1)
    assert len(loader) == 5
    for input, target in loader:
        x, x_pair = input.chunk(2)
        y, y_pair = target.chunk(2)
        assert torch.equal(y, y_pair)
        f = net(x)
        with torch.no_grad():
            f_pair = net(x_pair)
        log_p, log_q = F.log_softmax(f_pair / 4.0, dim=1), F.log_softmax(f / 4.0, dim=1)
        loss_cls = (log_p.exp() * (log_p - log_q)).sum() / len(x)
        loss = F.cross_entropy(f, y) + 2.0 * (loss_cls * 4.0**2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(dict(net.state_dict()), dict(checkpoint(run)["state_dict"]))


# ---- resume ----------------------------------------------------------------------------------------------------------

RESUMED = {
    "folder-sampled": ("folder", {"method": "cs_kd"}),
    "folder-dropout": ("folder", {"method": "sd_dropout"}),  # draws random numbers in the step
    "beton-bank": (
        "beton",
        {"method": "sd_dropout", "method_args": {"base": "cs_kd", "base_args": {"pairing": "bank"}}},
    ),
    "beton-mixup-adamw": (
        "beton",
        {"method": "cs_kd", "mixup": 0.4, "cutmix": 1.0, "optimizer": "adamw", "schedule": "cosine"},
    ),
    "beton-bce-lamb-agc": (
        "beton",
        {
            "method": "sd_dropout",
            "method_args": {"base": "cs_kd", "weight": 0.1},
            "loss": "bce",
            "mixup": 0.2,
            "bce_threshold": 0.2,
            "optimizer": "lamb",
            "lr": 0.01,
            "layer_decay": 0.8,
            "clip_grad": 0.02,
            "clip_mode": "agc",
            "ema_warmup": True,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "model_args": {"channels": [8, 8, 16, 16], "drop_path_rate": 0.3},
        },
    ),
    "beton-augmented": (
        "beton",
        {
            "method": "cs_kd",
            "mixup": 0.2,
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "color_jitter": 0.3,
            "vflip": 0.5,
            "grayscale": 0.2,
            "random_erasing": 0.5,
            "repeated_augmentation": 2,
        },
    ),
}


def start(recipe: Recipe, data: Path, out: Path, processes: int = 1) -> subprocess.Popen[str]:
    """Trains a recipe in processes of its own, as a recipe file does."""
    script = out.with_suffix(".py")
    script.write_text(
        "import torch\ntorch.set_num_threads(1)\nfrom skd_plugins import Recipe, main\n"
        f"main(Recipe.from_json({recipe.to_json()!r}))\n"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, str(script), "--data", str(data), "--out", str(out)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended by itself"
        log = run / "metrics.jsonl"
        if log.exists() and log.read_text().count('"event": "train"') >= step and (run / "last.pt").exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within two minutes")


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_is_bit_equal(name: str, data: dict[str, Path], fit: Fit, tmp_path: Path) -> None:
    kind, changes = RESUMED[name]
    # A checkpoint after every step, many short epochs: the kill lands within one.
    changes |= {"ema_decay": 0.9, "save_minutes": 1e-9, "epochs": 40}
    process = start(replace(TINY_RECIPE, **changes), data[kind], tmp_path / "killed")
    _wait_for_step(process, tmp_path / "killed" / RUN, 7)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # its workers keep the pipes open for some seconds
    stopped = checkpoint(tmp_path / "killed" / RUN)
    assert 0 < stopped["step"] < 40 * stopped["steps_per_epoch"]

    # The kill may have hit an epoch's end; a step more or less makes it the middle.
    changes["max_steps"] = stopped["step"] + 2 * stopped["steps_per_epoch"] + 1
    resumed, whole = fit("killed", on=kind, resume=True, **changes), fit("whole", on=kind, **changes)
    assert checkpoint(resumed)["step"] == changes["max_steps"]
    assert_same(checkpoint(resumed), checkpoint(whole))
    for event in ("train", "validate"):
        logs = [lines(run, event) for run in (resumed, whole)]
        for line in [*logs[0], *logs[1]]:
            for key in ("images_per_second", "data_wait"):
                line.pop(key, None)
        assert logs[0] == logs[1], "the log of the resumed run has every step once"


@pytest.mark.parametrize("kind", ["beton", "folder"])
def test_resumes_bit_equal_across_a_change_of_size(kind: str, fit: Fit) -> None:
    """5 steps an epoch; sizes change after steps 5 and 10. Stopped within an epoch before, at, and after a change."""
    changes: dict[str, Any] = {
        "epochs": 4, "method": "cs_kd", "ema_decay": 0.9, "image_size": 24,
        "train_sizes": ((0, 16), (0.25, 20), (0.5, 24)),
    }  # fmt: skip
    whole = fit("whole", on=kind, **changes)
    for stop in (3, 5, 12):
        fit("parts", on=kind, max_steps=stop, resume=True, **changes)
    parts = fit("parts", on=kind, resume=True, **changes)
    assert checkpoint(parts)["step"] == 20
    assert_same(checkpoint(parts), checkpoint(whole))
    assert [line["loss"] for line in lines(parts, "train")] == [line["loss"] for line in lines(whole, "train")]
    fixed = fit("fixed", on=kind, **changes | {"train_sizes": ()})
    assert not torch.equal(checkpoint(fixed)["state_dict"]["fc.weight"], checkpoint(whole)["state_dict"]["fc.weight"])


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_repeated_signals_to_all_processes_save(
    number: int, processes: int, data: dict[str, Path], tmp_path: Path
) -> None:
    """Also to those that read the images, and to torchrun, which sends them again."""
    recipe = replace(TINY_RECIPE, epochs=2000, save_minutes=0, validate_every=2000)
    process = start(recipe, data["folder"], tmp_path / "out", processes)
    _wait_for_step(process, tmp_path / "out" / RUN, 12)
    for _ in range(3):
        os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    (step,) = re.findall(r"stopped by signal at step (\d+); continue with --resume", output)
    assert checkpoint(tmp_path / "out" / RUN)["step"] == int(step) >= 12
    if processes == 1:
        assert process.returncode == 128 + number
        assert "Traceback" not in errors


def test_a_signal_at_an_epochs_last_step_waits_for_its_validation(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(seed: int, step: int, part: int) -> None:
        if step == 5:  # of 5 in the first epoch
            os.kill(os.getpid(), signal.SIGINT)
        seed_step(seed, step, part)

    monkeypatch.setattr(engine, "seed_step", seeds)
    with pytest.raises(SystemExit) as stopped:
        fit("stopped", epochs=3, save_every=1)
    assert stopped.value.code == 128 + signal.SIGINT
    monkeypatch.undo()
    whole, resumed = fit("whole", epochs=3, save_every=1), fit("stopped", epochs=3, save_every=1, resume=True)
    assert [line["step"] for line in lines(resumed, "validate")] == [5, 10, 15]
    assert checkpoint(resumed, "epoch0001.pt")["step"] == 5
    for name in ("last.pt", "best.pt", "epoch0001.pt"):
        assert_same(checkpoint(resumed, name), checkpoint(whole, name))


def test_a_run_is_continued_with_its_own_data_only(fit: Fit, tmp_path: Path) -> None:
    source = open_source("digits", True)
    for half in ("train", "val"):
        write_folder(_take(source, np.arange(100)), tmp_path / "more" / half)
        part = _take(source, np.flatnonzero(source.targets < 9)[:56])
        write_folder(dataclasses.replace(part, classes=source.classes[:9]), tmp_path / "fewer" / half)
    run = fit(on="folder", num_classes=10)
    before = (run / "last.pt").read_bytes()
    for other, message in (("more", "was trained with 5 steps an epoch, there would be 9 now"), ("fewer", "classes")):
        with pytest.raises(SkdError, match=message):
            fit(on=tmp_path / other, num_classes=10, epochs=4, resume=True)
    assert (run / "last.pt").read_bytes() == before


@pytest.mark.parametrize("kind", ["beton", "foreign", "folder"])
def test_data_of_the_same_size_are_told_apart(kind: str, data: dict[str, Path], fit: Fit, tmp_path: Path) -> None:
    """The same data elsewhere, touched, written again or as another kind continue a run; other images do not."""
    source, here = open_source("digits", True), tmp_path / "here"
    shutil.copytree(data["folder" if kind == "folder" else "beton"], here)
    if kind == "foreign":  # as FFCV alone writes it
        for extra in (*here.glob("*.json"), *here.glob("*.crc32")):
            extra.unlink()
    run = fit(on=here, num_classes=10, epochs=1)
    there = here.rename(tmp_path / "there")
    for file in there.rglob("*.*"):
        file.touch()
    assert checkpoint(fit(on=there, num_classes=10, epochs=2, resume=True))["step"] == 10
    before = (run / "last.pt").read_bytes()
    for half, count in (("train", 56), ("val", 13)):
        targets = image_folder(data["folder"] / half).targets
        other = _take(source, np.stack([np.flatnonzero(source.targets == label)[50:56] for label in range(10)], axis=1)
                      .ravel()[:count])  # fmt: skip
        assert np.array_equal(np.sort(other.targets), np.sort(targets)), "the same numbers of images and steps"
        changed = shutil.copytree(there, tmp_path / half)
        if kind == "folder":
            shutil.rmtree(changed / half)
            write_folder(other, changed / half)
        else:
            written = write_beton(other, changed / f"{half}.beton", raw_share=1.0, workers=1)
            for extra in (".json", ".crc32") if kind == "foreign" else ():
                written.with_name(written.name + extra).unlink()
        part = f"{'training' if half == 'train' else 'validation'} {'folder' if kind == 'folder' else 'file'}"
        with pytest.raises(SkdError, match=f"began with another {part} .*; continue it with the data it began with"):
            fit(on=changed, num_classes=10, epochs=3, resume=True)
    assert (run / "last.pt").read_bytes() == before
    if kind != "foreign":  # which does not name its classes
        again = data["beton" if kind == "folder" else "folder"]
        assert checkpoint(fit(on=again, num_classes=10, epochs=3, resume=True))["step"] == 15


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit-equal in the end, also after that, and the record is of all parts."""
    changes = {"method": "sd_dropout", "method_args": {"weight": 0.5}}
    run = fit("damaged", epochs=2, **changes)
    for damage in (b"no checkpoint", None):
        if damage:
            (run / "last.pt").write_bytes(damage)
        else:
            (run / "last.pt").unlink()
        fit("damaged", epochs=3, resume=True, **changes)
        assert "; continuing from previous.pt, step " in capsys.readouterr().err
        assert_same(checkpoint(run), checkpoint(fit(f"whole{bool(damage)}", epochs=3, **changes)))
    assert checkpoint(run, "previous.pt")["step"] == 10
    record = json.loads((run / "recipe.json").read_text())
    assert (record["epochs"], record["method_args"]) == (3, {"weight": 0.5})
    assert len(record["environment"]["earlier"]) == 2
    assert checkpoint(run)["card"]["environment"]["method_args"] == record["environment"]["method_args"] == {
        "base": "ce", "base_args": {}, "weight": 0.5, "temperature": 3.0, "drop_rate": 0.5, "direction": "both",
        "position": "head", "samples": 2,
    }  # fmt: skip


def test_a_run_with_damaged_files_is_refused_or_continued(fit: Fit) -> None:
    run = fit(epochs=1)
    whole, log, record = ((run / name).read_bytes() for name in ("last.pt", "metrics.jsonl", "recipe.json"))
    (run / "previous.pt").unlink(missing_ok=True)
    state = checkpoint(run)
    other = create_model("resnet10t", num_classes=7, channels=[8, 8, 16, 16])
    for change, message in [
        ({"state_dict": other.state_dict()}, r"last\.pt is not of this network .*size mismatch for fc\.weight"),
        ({"optimizer": torch.optim.SGD(other.fc.parameters()).state_dict()}, r"last\.pt is not of this network"),
    ]:
        torch.save(state | change, run / "last.pt")
        with pytest.raises(SkdError, match=message):
            fit(epochs=2, resume=True)
    (run / "last.pt").write_bytes(whole)
    (run / "recipe.json").write_bytes(b'{"environment":' * 10**5)
    with pytest.raises(SkdError, match=r"recipe\.json is not a recipe: recursion limit"):
        fit(epochs=2, resume=True)
    (run / "recipe.json").write_bytes(record)
    (run / "metrics.jsonl").write_bytes(b'[1]\n\xff\n{"step": "a"}\n' + b"[" * 10**5 + b"\n" + log + b'{"step')
    fit(epochs=2, resume=True)
    assert (run / "metrics.jsonl").read_bytes().startswith(log)
    assert [entry["epoch"] for entry in lines(run, "validate")] == [0, 1]


def test_a_folder_with_other_checkpoints_is_not_overwritten(fit: Fit) -> None:
    run = fit(epochs=1)
    (run / "last.pt").unlink()
    before = (run / "best.pt").read_bytes()
    for resume, message in ((False, "holds a run already"), (True, r"no last\.pt .*, only best\.pt; copy one of them")):
        with pytest.raises(SkdError, match=message):
            fit(resume=resume, lr=0.1)
    assert (run / "best.pt").read_bytes() == before
    shutil.copy(run / "best.pt", run / "last.pt")
    assert checkpoint(fit(epochs=2, resume=True))["step"] == 10


def test_a_second_start_changes_nothing(fit: Fit, tmp_path: Path) -> None:
    """Before the first checkpoint too, when the record could still be written anew."""
    holds = "import sys; from pathlib import Path; from skd_plugins.common.locks import only_one\n" \
        "with only_one(Path(sys.argv[1])): print(flush=True); input()"  # fmt: skip
    command = [sys.executable, "-c", holds, str(tmp_path / RUN)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(SkdError, match="is being written by another process"):
        fit()
    assert not (tmp_path / RUN / "recipe.json").exists()
    first.communicate(b"\n", timeout=60)
    fit(epochs=1)


# ---- several processes and micro-batches -----------------------------------------------------------------------------


def test_micro_batches_equal_the_whole_batch(fit: Fit) -> None:
    """Without BatchNorm, whose statistics are a micro-batch's own."""
    one, three = (
        checkpoint(fit(f"{count}", model_args=GROUP_NORM, epochs=1, grad_accumulation=count)) for count in (1, 3)
    )
    assert one["step"] == three["step"] == 5
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(three["state_dict"][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_processes_with_other_labels_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    """As on two machines, of which one has another copy of the data."""
    for rank in ("0", "1"):
        shutil.copytree(data["folder"], tmp_path / rank)
    first, second, *_ = sorted((tmp_path / "1" / "train").iterdir())
    next(first.iterdir()).rename(second / "moved.png")
    script, places = tmp_path / "script.py", (str(tmp_path), str(tmp_path / "out"))
    script.write_text(
        f"import os\nfrom skd_plugins import Recipe, train\ndata, out = {places}\n"
        f"train({TINY_RECIPE!r}, data=os.path.join(data, os.environ['RANK']), out=out)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "train has other classes or labels on another machine" in done.stderr
    assert not list(tmp_path.glob("out/**/*.pt"))


def test_two_processes_train_and_evaluate_as_one(data: dict[str, Path], fit: Fit, tmp_path: Path) -> None:
    """13 validation images, two of the second process's damaged: every image counts once, also among those left out."""
    folder = shutil.copytree(data["folder"], tmp_path / "data")
    for broken in sorted((folder / "val").rglob("*.png"))[-2:]:
        broken.write_bytes(b"no image")
    changes = {"model_args": GROUP_NORM, "method": "cs_kd", "epochs": 1, "skip_broken": True}
    process = start(replace(TINY_RECIPE, **changes, trackers=("tensorboard",)), folder, tmp_path / "two", processes=2)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    assert "left out 0 training and 2 validation images" in output
    two = tmp_path / "two" / RUN
    assert json.loads((two / "recipe.json").read_text())["environment"]["processes"] == 2
    assert list(two.rglob("events.out.tfevents.*")), "TensorBoard's file"
    one = fit("one", on=folder, **changes)
    a, b = checkpoint(two), checkpoint(one)
    assert a["step"] == b["step"] == 5
    for key, value in b["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][key], value, rtol=1e-3, atol=1e-5, msg=key)
    first, second = lines(two, "validate")[-1], lines(one, "validate")[-1]
    assert first["count"] == second["count"] == 11
    assert first["top1"] == second["top1"]
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-4)
    (left_out,) = lines(two, "skipped")
    assert (left_out["train"], left_out["val"]) == (0, 2)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(fit: Fit, tmp_path: Path) -> None:
    changes = {"epochs": 4, "save_every": 2, "ema_decay": 0.5, "label_smoothing": 0.1, "clip_grad": 1.0}
    gc.disable()
    try:
        run = fit(on="folder", **changes)
        assert not multiprocessing.active_children(), "left to the garbage collector, each takes five seconds to end"
    finally:
        gc.enable()
    assert run == tmp_path / RUN
    assert sorted(path.name for path in run.glob("*.pt")) == [
        "best.pt", "epoch0002.pt", "epoch0004.pt", "last.pt", "previous.pt",
    ]  # fmt: skip
    assert not list(run.glob(".*"))
    record = json.loads((run / "recipe.json").read_text())
    environment = record.pop("environment")
    assert Recipe.from_json(record) == replace(TINY_RECIPE, **changes)
    assert environment["versions"]["torch"] == metadata.version("torch")
    last = checkpoint(run)
    assert (last["step"], last["epoch"]) == (20, 4)
    assert checkpoint(run, "epoch0002.pt")["step"] == 10
    best = max(lines(run, "validate"), key=lambda line: line["top1"])
    assert (last["best"], last["best_epoch"]) == (best["top1"], best["epoch"])
    assert [line["lr"] for line in lines(run, "train")] == [0.05] * 5 + [pytest.approx(0.005)] * 15
    assert set(lines(run, "train")[0]) >= {"loss", "ce", "lr", "images_per_second", "data_wait"}
    assert last["card"]["classes"] == [str(label) for label in range(10)]


def test_wandb_has_the_recipe_and_its_folder_is_in_the_run(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = fit(epochs=1, max_steps=1, trackers=("wandb",), method_args={"weight": 0.123}, method="cs_kd")
    wandb.teardown()  # its process has written the file then
    (record,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert b"0.123" in record.read_bytes()


def test_compiled_full_batches_keep_their_own_graph(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a smaller batch; in training, in validation and of the average."""
    used: list[str] = []

    def watched(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        of_all_sizes = any(isinstance(item, torch.SymInt) for item in inputs)
        images = next(item for item in inputs if isinstance(item, torch.Tensor) and item.shape[1:] == (3, 16, 16))

        def run(*args: Any) -> Any:
            used.append("any" if of_all_sizes else str(len(images)))
            return graph(*args)

        return run

    for name in ("compile", "compile_ema"):
        compile = getattr(MethodTask, name)
        monkeypatch.setattr(MethodTask, name, functools.partialmethod(compile, backend=watched))
    fit(compile=True, epochs=2, eval_batch_size=5, ema_decay=0.9)
    assert used == ["12", "12", "12", "12", "8", "5", "5", "3"] * 2


def test_bf16_is_close_to_float32(fit: Fit) -> None:
    """One step of two images.

    At 16 px the last stage is 1 x 1, where torch 2.13 on a CPU gets bf16 weight gradients from uninitialised memory.
    """
    runs = [fit(name, precision=name, max_steps=1, batch_size=2, image_size=32) for name in ("no", "bf16")]
    exact, rounded = ([*lines(run, "train"), *lines(run, "validate")] for run in runs)
    assert rounded[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.05)
    assert rounded[0]["loss"] != exact[0]["loss"]
    assert rounded[1]["nll"] == pytest.approx(exact[1]["nll"], rel=0.2)


def test_errors_come_early_and_lose_nothing(fit: Fit, tmp_path: Path) -> None:
    run = fit(epochs=1)
    before = (run / "last.pt").read_bytes()
    nowhere = tmp_path / "nothing"
    for changes, message in [
        ({"epochs": 1, "seed": 0}, "holds a run already"),
        ({"num_classes": 7}, "has 10 classes, but the network would have 7"),
        ({"on": nowhere}, "does not exist"),
        ({"on": tmp_path}, "neither train.beton nor"),
        ({"model": "resnet11"}, "unknown model 'resnet11'"),
        ({"model_args": {"chanels": 3}}, "model_args"),
        ({"model": "densenet121", "model_args": {}, "image_size": 3}, "image_size=3: DenseNet can't"),
        (
            {"train_sizes": ((0, 3),), "image_size": 64, "model": "densenet121", "model_args": {}},
            "image_size=3: DenseNet can't",
        ),
        ({"optimizer": "sdg"}, "sdg"),
        ({"trackers": ("tensorbord",)}, "tracker 'tensorbord' is unknown or not installed; available: "),
        ({"batch_size": 100, "grad_accumulation": 30}, "batch_size=100"),
        ({"lr": 1e30, "epochs": 3}, "the loss is not finite at step"),
        ({"lr": 1e30, "max_steps": 1}, r"the validation is not finite at step 1 \(terms: nll\)"),
        ({"method": "cs_kd", "method_args": {"pairing": "bank"}, "mixup": 0.2}, "class indices"),
        ({"method": "virtual_softmax", "cutmix": 1.0}, "virtual_softmax needs class indices"),
        ({"initial_weights": str(nowhere)}, "nothing does not exist"),
        ({"lr": 0.1, "resume": True, "seed": 0}, r"continued with another recipe \(lr was 0.05, is 0.1\)"),
    ]:
        with pytest.raises(SkdError, match=message):
            fit(**({"seed": 1} | changes))
    assert (run / "last.pt").read_bytes() == before
    assert not list(tmp_path.rglob("seed1/*.pt")), "nothing of what is not finite"


def test_kernels_of_a_gpu_are_fast_or_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in ((torch.backends.cudnn, "deterministic"), (torch.backends.cudnn, "benchmark")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tf32 = torch.backends.cuda.matmul
    try:
        for deterministic in (False, True):
            choose_kernels(deterministic=deterministic)
            assert torch.backends.cudnn.benchmark is tf32.allow_tf32 is not deterministic
            assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_needs_a_gpu(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(SkdError, match="precision=fp16 needs a GPU: .*; use precision=bf16 or no"):
        fit(precision="fp16")
    assert not list(tmp_path.iterdir())


def test_initial_weights_and_resume_without_a_run(fit: Fit) -> None:
    first = fit("a", epochs=1)
    second = fit("b", initial_weights=str(first), max_steps=1, lr=0.0, weight_decay=0.0, resume=True)
    for key, value in checkpoint(first)["state_dict"].items():
        if "running" not in key and "num_" not in key:
            assert torch.equal(checkpoint(second)["state_dict"][key], value), key


def test_initial_weights_of_other_classes_get_a_new_classifier(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    body = {
        f"module.{key}": value
        for key, value in create_model("resnet10t", num_classes=7, channels=[8, 8, 16, 16]).state_dict().items()
    }
    headless = {key: value for key, value in body.items() if ".fc." not in key}
    trained = []
    for name, weights, reason in (
        ("other", body, "2 of another shape: fc.weight"),
        ("none", headless, "2 missing: fc.bias"),
    ):
        torch.save(weights, tmp_path / f"{name}.pth")
        run = fit(name, initial_weights=str(tmp_path / f"{name}.pth"), max_steps=1, lr=0.0, weight_decay=0.0)
        assert re.search(
            f"note: .*{reason}.*; the rest fits, and the classifier starts at random",
            " ".join(capsys.readouterr().out.split()),
        )
        trained.append(checkpoint(run)["state_dict"])
        assert torch.equal(trained[-1]["layer4.0.conv2.weight"], body["module.layer4.0.conv2.weight"])
    assert torch.equal(trained[0]["fc.weight"], trained[1]["fc.weight"])
    assert trained[0]["fc.weight"].shape == (10, 16)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last(channels_last: bool, fit: Fit) -> None:
    seen = set()

    def look(module: torch.nn.Module, input: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d) and output.shape[-1] > 1 and torch.is_grad_enabled():
            seen.add(output.is_contiguous(memory_format=torch.channels_last))
            if max(module.kernel_size) > 1 and module.in_channels > 3:  # other weights are both
                seen.add(module.weight.is_contiguous(memory_format=torch.channels_last))

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        fit(channels_last=channels_last, max_steps=1, method="byot", image_size=64)  # its branches too
    finally:
        handle.remove()
    assert seen == {channels_last}


def test_classes_without_names_are_those_of_both_halves(fit: Fit, tmp_path: Path) -> None:
    """As in files that FFCV's own writer wrote; the last class is missing from the validation half."""
    source = open_source("digits", True)
    for half, keep in (("train", np.arange(60)), ("val", np.flatnonzero(source.targets < 9)[:20])):
        path = write_beton(_take(source, keep), tmp_path / "data" / f"{half}.beton", raw_share=1.0, workers=1)
        for file in path.parent.iterdir():
            if file.suffix != ".beton":
                file.unlink()
    run = fit(on=tmp_path / "data", max_steps=1)
    assert checkpoint(run)["card"]["num_classes"] == 10


# ---- on a GPU: make gpu-test -----------------------------------------------------------------------------------------


@pytest.fixture
def _any_kernels_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.cuda
@pytest.mark.usefixtures("_any_kernels_again")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("name", RESUMED)
def test_deterministic_training_on_a_gpu_is_repeated_and_resumed_bit_equal(
    name: str, precision: str, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the state of the fp16 scaler."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    kind, method = RESUMED[name]
    changes = method | {"deterministic": True, "precision": precision, "ema_decay": 0.9, "epochs": 3, "image_size": 32}
    whole, again = fit("whole", on=kind, **changes), fit("again", on=kind, **changes)
    fit("parts", on=kind, max_steps=7, **changes)
    parts = fit("parts", on=kind, resume=True, **changes)
    assert checkpoint(whole)["step"] == 15
    assert ("scaler" in checkpoint(whole)) == (precision == "fp16")
    assert_same(checkpoint(again), checkpoint(whole))
    assert_same(checkpoint(parts), checkpoint(whole))


@pytest.mark.cuda
def test_low_precision_on_a_gpu_is_close_to_float32(fit: Fit) -> None:
    runs = {name: fit(name, precision=name, image_size=32) for name in ("no", "bf16", "fp16")}
    losses = {name: [line["loss"] for line in lines(run, "train")] for name, run in runs.items()}
    assert losses["bf16"][0] == pytest.approx(losses["no"][0], rel=0.05)
    assert losses["fp16"][0] == pytest.approx(losses["no"][0], rel=0.01)
    assert losses["fp16"] != losses["no"]
    scaler = checkpoint(runs["fp16"])["scaler"]
    assert scaler["scale"] > 1, "gradients were scaled, and the scale survived"


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("method", [("ce", {}), ("cs_kd", {"pairing": "bank"}), ("cs_kd", {}), ("sd_dropout", {})])
def test_compiled_training_on_a_gpu_has_the_same_losses(method: tuple[str, Any], precision: str, fit: Fit) -> None:
    """Cross-entropy's part of the first step: compiled dropout draws other numbers."""
    changes = {"method": method[0], "method_args": method[1], "precision": precision, "image_size": 32}
    plain, compiled = (fit(str(on), compile=on, **changes) for on in (False, True))
    first, same = (lines(run, "train")[0]["ce"] for run in (plain, compiled))
    assert same == pytest.approx(first, rel=0.02)
    assert len(lines(compiled, "validate")) == 2
