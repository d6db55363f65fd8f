"""The training loop: it learns, it resumes bit-equally, and several processes do what one does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skd_plugins import Recipe, create_model, make_loader, replace, train
from skd_plugins.common.errors import SkdError
from skd_plugins.data import Source, open_source, write_beton
from skd_plugins.data.beton.write import write_folder
from skd_plugins.training import engine
from skd_plugins.training.build import augmentation
from skd_plugins.training.process import seed_step

ROOT = Path(__file__).parents[1]
BASE = Recipe(
    name="tiny.test",
    dataset="digits",
    model="resnet10t",
    model_args={"channels": [8, 8, 16, 16]},
    epochs=2,
    batch_size=12,
    lr=0.05,
    milestones=(1,),
    image_size=16,
    augment="shift",
    padding=2,
    hflip=0.0,
    crop_pct=1.0,
    workers=2,
    trackers=(),
    log_every=1,
)
GROUP_NORM = {"channels": [8, 8, 16, 16], "norm_layer": "groupnorm1"}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """56 training and 13 validation digits, as `.beton` and as folders. 56 = 4 * 12 + 8: a short last step."""
    root = tmp_path_factory.mktemp("engine")
    for train_half in (True, False):
        source = open_source("digits", train_half)
        first = np.stack([np.flatnonzero(source.targets == label)[:6] for label in range(10)], axis=1).ravel()
        part = _take(source, first[: 56 if train_half else 13])
        half = "train" if train_half else "val"
        write_beton(part, root / "beton" / f"{half}.beton", raw_share=1.0, workers=1)
        write_folder(part, root / "folder" / half)
    return {"beton": root / "beton", "folder": root / "folder"}


def _take(source: Source, keep: np.ndarray) -> Source:
    return Source(
        description="some digits",
        classes=source.classes,
        targets=source.targets[keep],
        load=lambda index: source.load(int(keep[index])),
        name_of=lambda index: f"digit {index}",
    )


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
def test_overfits_16_images(method: str, tmp_path: Path) -> None:
    source = open_source("digits", True)
    keep = np.concatenate([np.flatnonzero(source.targets == label)[:2] for label in range(8)])
    small = _take(source, keep)
    for half in ("train", "val"):
        write_beton(small, tmp_path / "data" / f"{half}.beton", raw_share=1.0, workers=1)
    arguments = {"weight": 0.1} if method == "sd_dropout" else {}
    recipe = replace(
        BASE, method=method, method_args=arguments, epochs=60, batch_size=16, padding=0, schedule="cosine",
        validate_every=60, log_every=60, momentum=0.9, lr=0.1,
    )  # fmt: skip
    run = train(recipe, data=str(tmp_path / "data"), out=tmp_path)
    last = lines(run, "validate")[-1]
    assert last["top1"] == 1.0
    assert last["nll"] < 0.3


def test_five_cs_kd_steps_equal_a_plain_script(data: dict[str, Path], tmp_path: Path) -> None:
    """The engine against a loop written from Algorithm 1 and Eq. 1 of CS-KD: bit-equal weights."""
    recipe = replace(
        BASE,
        method="cs_kd",
        method_args={"weight": 2.0, "temperature": 4.0},
        max_steps=5,
        schedule="constant",
        epochs=3,
    )
    run = train(recipe, data=str(data["beton"]), out=tmp_path)

    seed_step(recipe.seed, 0, 0)
    net = create_model(recipe.model, num_classes=10, **recipe.model_args).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loader = make_loader(
        data["beton"] / "train.beton",
        segments=("anchor", "pair"),
        batch_size=12,
        augmentation=augmentation(recipe),
        workers=1,
    )
    steps = 0
    while steps < 5:
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
            steps += 1
            if steps == 5:
                break
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
}


def _script(recipe: Recipe, path: Path) -> Path:
    path.write_text(
        "import torch\ntorch.set_num_threads(1)\nfrom skd_plugins import Recipe, main\n"
        f"main(Recipe.from_json({recipe.to_json()!r}))\n"
    )
    return path


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_is_bit_equal(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    kind, changes = RESUMED[name]
    # A checkpoint after every step, many short epochs: the kill lands within one.
    recipe = replace(BASE, **changes, ema_decay=0.9, save_minutes=1e-9, epochs=40)
    script = _script(recipe, tmp_path / "recipe.py")
    command = [sys.executable, str(script), "--data", str(data[kind]), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL)
    run = tmp_path / "killed" / "tiny.test" / "seed0"
    _wait_for_step(process, run, 7)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stopped = checkpoint(run)
    epoch_length = stopped["steps_per_epoch"]
    assert 0 < stopped["step"] < 40 * epoch_length

    # The kill may have hit an epoch's end; a step more or less makes it the middle.
    limit = stopped["step"] + 2 * epoch_length + 1
    ended = replace(recipe, max_steps=limit)
    resumed = train(ended, data=str(data[kind]), out=tmp_path / "killed", resume=True)
    whole = train(ended, data=str(data[kind]), out=tmp_path / "whole")
    assert checkpoint(resumed)["step"] == limit
    assert_same(checkpoint(resumed), checkpoint(whole))
    ignore = ("images_per_second", "data_wait")
    for event in ("train", "validate"):
        cleaned = [
            [{key: value for key, value in line.items() if key not in ignore} for line in lines(folder, event)]
            for folder in (resumed, whole)
        ]
        assert cleaned[0] == cleaned[1], "the log of the resumed run has every step once"


def _wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended by itself"
        log = run / "metrics.jsonl"
        if log.exists() and log.read_text().count('"event": "train"') >= step and (run / "last.pt").exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within two minutes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_resume(number: int, data: dict[str, Path], tmp_path: Path) -> None:
    recipe = replace(BASE, epochs=2000, save_minutes=0, validate_every=2000)
    script = _script(recipe, tmp_path / "recipe.py")
    command = [sys.executable, str(script), "--data", str(data["beton"]), "--out", str(tmp_path)]
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "tiny.test" / "seed0"
    _wait_for_step(process, run, 12)  # type: ignore[arg-type]
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume" in output
    assert "Traceback" not in errors
    assert checkpoint(run)["step"] >= 12


def test_a_signal_at_an_epochs_last_step_waits_for_its_validation(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(BASE, epochs=3, save_every=1)

    def seeds(seed: int, step: int, part: int) -> None:
        if step == 5:  # of 5 in the first epoch
            os.kill(os.getpid(), signal.SIGTERM)
        seed_step(seed, step, part)

    monkeypatch.setattr(engine, "seed_step", seeds)
    with pytest.raises(SystemExit) as stopped:
        train(recipe, data=str(data["beton"]), out=tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    run = tmp_path / "tiny.test" / "seed0"
    assert [line["step"] for line in lines(run, "validate")] == [5]
    for name in ("last.pt", "best.pt", "epoch0001.pt"):
        assert checkpoint(run, name)["step"] == 5
    monkeypatch.undo()
    assert_same(
        checkpoint(train(recipe, data=str(data["beton"]), out=tmp_path, resume=True)),
        checkpoint(train(recipe, data=str(data["beton"]), out=tmp_path / "whole")),
    )


def test_a_run_is_continued_with_its_own_data_only(data: dict[str, Path], tmp_path: Path) -> None:
    source = open_source("digits", True)
    for half in ("train", "val"):
        write_folder(_take(source, np.arange(100)), tmp_path / "more" / half)
        part = _take(source, np.flatnonzero(source.targets < 9)[:56])
        write_folder(dataclasses.replace(part, classes=source.classes[:9]), tmp_path / "fewer" / half)
    train(replace(BASE, num_classes=10), data=str(data["folder"]), out=tmp_path)
    run = tmp_path / "tiny.test" / "seed0"
    before = (run / "last.pt").read_bytes()
    for other, message in (("more", "was trained with 5 steps an epoch, there would be 9 now"), ("fewer", "classes")):
        with pytest.raises(SkdError, match=message):
            train(replace(BASE, num_classes=10, epochs=4), data=str(tmp_path / other), out=tmp_path, resume=True)
    assert (run / "last.pt").read_bytes() == before


def test_a_second_start_changes_nothing(data: dict[str, Path], tmp_path: Path) -> None:
    """Before the first checkpoint too, when the record could still be written anew."""
    run = tmp_path / "tiny.test" / "seed0"
    holds = "import sys; from pathlib import Path; from skd_plugins.common.locks import only_one\n" \
        "with only_one(Path(sys.argv[1])): print(flush=True); input()"  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-c", holds, str(run)], env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(SkdError, match="is being written by another process"):
        train(BASE, data=str(data["beton"]), out=tmp_path)
    assert not (run / "recipe.json").exists()
    first.communicate(b"\n", timeout=60)
    train(replace(BASE, epochs=1), data=str(data["beton"]), out=tmp_path)


# ---- several processes and micro-batches -----------------------------------------------------------------------------


def test_micro_batches_equal_the_whole_batch(data: dict[str, Path], tmp_path: Path) -> None:
    """Without BatchNorm, whose statistics are a micro-batch's own."""
    recipe = replace(BASE, model_args=GROUP_NORM, epochs=1)
    one = checkpoint(train(recipe, data=str(data["beton"]), out=tmp_path / "one"))
    three = checkpoint(train(replace(recipe, grad_accumulation=3), data=str(data["beton"]), out=tmp_path / "three"))
    assert one["step"] == three["step"] == 5
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(three["state_dict"][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_two_processes_train_and_evaluate_as_one(data: dict[str, Path], tmp_path: Path) -> None:
    """13 validation images on two processes: every image counts once, and the numbers are those of one process."""
    recipe = replace(BASE, model_args=GROUP_NORM, method="cs_kd", epochs=1, trackers=("tensorboard",))
    script = _script(recipe, tmp_path / "recipe.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, "--data", str(data["beton"]), "--out", str(tmp_path / "two")],
        env=_environment() | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "two" / "tiny.test" / "seed0"
    assert json.loads((two / "recipe.json").read_text())["environment"]["processes"] == 2
    assert list((two).rglob("events.out.tfevents.*")), "TensorBoard's file"
    one = train(replace(recipe, trackers=()), data=str(data["beton"]), out=tmp_path / "one")
    a, b = checkpoint(two), checkpoint(one)
    assert a["step"] == b["step"] == 5
    for key, value in b["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][key], value, rtol=1e-3, atol=1e-5, msg=key)
    first, second = lines(two, "validate")[-1], lines(one, "validate")[-1]
    assert first["count"] == second["count"] == 13
    assert first["top1"] == second["top1"]
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-4)


def test_images_left_out_are_counted_over_all_processes(data: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(data["folder"], tmp_path / "data")
    for broken in sorted((folder / "val").rglob("*.png"))[-2:]:  # of the second process
        broken.write_bytes(b"no image")
    script = _script(replace(BASE, epochs=1, skip_broken=True), tmp_path / "recipe.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, "--data", str(folder), "--out", str(tmp_path)],
        env=_environment() | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "left out 0 training and 2 validation images" in done.stdout
    (line,) = lines(tmp_path / "tiny.test" / "seed0", "skipped")
    assert (line["train"], line["val"]) == (0, 2)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(data: dict[str, Path], tmp_path: Path) -> None:
    recipe = replace(
        BASE, epochs=4, save_every=2, ema_decay=0.5, label_smoothing=0.1, clip_grad=1.0, precision="bf16", image_size=32
    )
    # (at 16 px the last stage is 1 x 1, where torch 2.13 on a CPU gets bf16 weight gradients from uninitialised memory)
    run = train(recipe, data=str(data["folder"]), out=tmp_path)
    assert run == tmp_path / "tiny.test" / "seed0"
    assert sorted(path.name for path in run.glob("*.pt")) == ["best.pt", "epoch0002.pt", "epoch0004.pt", "last.pt"]
    assert not list(run.glob(".*"))
    record = json.loads((run / "recipe.json").read_text())
    environment = record.pop("environment")
    assert Recipe.from_json(record) == recipe
    assert environment["versions"]["torch"] == metadata.version("torch")
    last = checkpoint(run)
    assert (last["step"], last["epoch"]) == (20, 4)
    assert checkpoint(run, "epoch0002.pt")["step"] == 10
    best = max(lines(run, "validate"), key=lambda line: line["top1"])
    assert last["best"] == best["top1"]
    assert last["best_epoch"] == best["epoch"]
    assert [line["lr"] for line in lines(run, "train")] == [0.05] * 5 + [pytest.approx(0.005)] * 15
    assert set(lines(run, "train")[0]) >= {"loss", "ce", "lr", "images_per_second", "data_wait"}
    assert last["card"]["classes"] == [str(label) for label in range(10)]


def test_errors_come_early_and_lose_nothing(data: dict[str, Path], tmp_path: Path) -> None:
    beton = str(data["beton"])
    run = train(replace(BASE, epochs=1), data=beton, out=tmp_path)
    before = (run / "last.pt").read_bytes()
    for changes, where, message in [
        ({"epochs": 1}, beton, "holds a run already"),
        ({"num_classes": 7, "seed": 1}, beton, "has 10 classes, but the network would have 7"),
        ({"seed": 1}, str(tmp_path / "nothing"), "does not exist"),
        ({"seed": 1}, str(tmp_path), "neither train.beton nor"),
        ({"seed": 1, "model": "resnet11"}, beton, "unknown model 'resnet11'"),
        ({"seed": 1, "model_args": {"chanels": 3}}, beton, "model_args"),
        ({"seed": 1, "model": "densenet121", "model_args": {}, "image_size": 3}, beton, "image_size=3: DenseNet can't"),
        ({"seed": 1, "optimizer": "sdg"}, beton, "sdg"),
        (
            {"seed": 1, "trackers": ("tensorbord",)},
            beton,
            "tracker 'tensorbord' is unknown or not installed; available: ",
        ),
        ({"seed": 1, "batch_size": 100, "grad_accumulation": 30}, beton, "batch_size=100"),
        ({"seed": 1, "lr": 1e30, "epochs": 3}, beton, "not finite at step"),
        ({"seed": 2, "method": "cs_kd", "method_args": {"pairing": "bank"}, "mixup": 0.2}, beton, "class indices"),
        ({"seed": 2, "method": "virtual_softmax", "cutmix": 1.0}, beton, "virtual_softmax needs class indices"),
        ({"seed": 1, "initial_weights": str(tmp_path / "no.pt")}, beton, "no.pt does not exist"),
    ]:
        with pytest.raises(SkdError, match=message):
            train(replace(BASE, **changes), data=where, out=tmp_path)
    with pytest.raises(SkdError, match=r"can't be continued with another recipe \(lr was 0.05, is 0.1\)"):
        train(replace(BASE, lr=0.1), data=beton, out=tmp_path, resume=True)
    assert (run / "last.pt").read_bytes() == before


def test_initial_weights_and_resume_without_a_run(data: dict[str, Path], tmp_path: Path) -> None:
    first = train(replace(BASE, epochs=1), data=str(data["beton"]), out=tmp_path / "a")
    started = replace(BASE, initial_weights=str(first), max_steps=1, lr=0.0, weight_decay=0.0)
    second = train(started, data=str(data["beton"]), out=tmp_path / "b", resume=True)
    weights = {
        key: value
        for key, value in checkpoint(first)["state_dict"].items()
        if "running" not in key and "num_" not in key
    }
    for key, value in weights.items():
        assert torch.equal(checkpoint(second)["state_dict"][key], value), key


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last(channels_last: bool, data: dict[str, Path], tmp_path: Path) -> None:
    seen = set()

    def look(module: torch.nn.Module, input: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d) and output.shape[-1] > 1 and torch.is_grad_enabled():
            seen.add(output.is_contiguous(memory_format=torch.channels_last))

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        train(replace(BASE, channels_last=channels_last, max_steps=1), data=str(data["beton"]), out=tmp_path)
    finally:
        handle.remove()
    assert seen == {channels_last}


def test_fp16_needs_a_gpu(data: dict[str, Path], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SkdError, match="precision=fp16 needs a GPU: .*; use precision=bf16 or no"):
        train(replace(BASE, precision="fp16"), data=str(data["beton"]), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_classes_without_names_are_those_of_both_halves(data: dict[str, Path], tmp_path: Path) -> None:
    """As in files that FFCV's own writer wrote; the last class is missing from the validation half."""
    source = open_source("digits", True)
    for half, keep in (("train", np.arange(60)), ("val", np.flatnonzero(source.targets < 9)[:20])):
        path = write_beton(_take(source, keep), tmp_path / "data" / f"{half}.beton", raw_share=1.0, workers=1)
        for file in path.parent.iterdir():
            if file.suffix != ".beton":
                file.unlink()
    run = train(replace(BASE, max_steps=1), data=str(tmp_path / "data"), out=tmp_path)
    assert checkpoint(run)["card"]["num_classes"] == 10
