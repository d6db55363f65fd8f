"""A run goes on bit-equally, from a kill, a signal or a damaged file, and with its own data only."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE
from faults.common import Fork, differing, end, script, start, take, tiny_data, training, wait_for
from tiny_runs import RUN, Fit, checkpoint, lines, tiny_fit  # noqa: F401  a fixture

from skd_plugins import SkdError, create_model, replace
from skd_plugins.common.locks import only_one
from skd_plugins.data import open_source, write_beton
from skd_plugins.data.beton.write import write_folder
from skd_plugins.data.sources import image_folder
from skd_plugins.training import engine
from skd_plugins.training.process import seed_step

SMALL = {"channels": [8, 8, 16, 16]}
RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    "folder-sampled": ("folder", {"method": "cs_kd"}),
    "folder-dropout": ("folder", {"method": "sd_dropout"}),  # draws random numbers in the step
    "folder-ols": ("folder", {"method": "ols", "lr": 0.2}),  # sums over an epoch
    "beton-ps_kd": ("beton", {"method": "ps_kd"}),  # keeps the network of the epoch before
    "beton-bank": (
        "beton", {"method": "sd_dropout", "method_args": {"base": "cs_kd", "base_args": {"pairing": "bank"}}},
    ),
    "beton-mixup-adamw": (
        "beton", {"method": "cs_kd", "mixup": 0.4, "cutmix": 1.0, "optimizer": "adamw", "schedule": "cosine"},
    ),
    "beton-bce-lamb-agc": ("beton", {
        "method": "sd_dropout", "method_args": {"base": "cs_kd", "weight": 0.1}, "loss": "bce", "mixup": 0.2,
        "bce_threshold": 0.2, "optimizer": "lamb", "lr": 0.01, "layer_decay": 0.8, "clip_grad": 0.02,
        "clip_mode": "agc", "ema_warmup": True, "schedule": "cosine", "warmup_epochs": 1,
        "model_args": SMALL | {"drop_path_rate": 0.3},
    }),
    "beton-augmented": ("beton", {
        "method": "cs_kd", "mixup": 0.2, "auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3, "vflip": 0.5,
        "grayscale": 0.2, "random_erasing": 0.5, "repeated_augmentation": 2,
    }),
}  # fmt: skip


def has_step(run: Path, step: int) -> bool:
    log = run / "metrics.jsonl"
    return (run / "last.pt").exists() and log.read_text().count('"event": "train"') >= step


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_is_bit_equal(name: str, fit: Fit, tmp_path: Path) -> None:
    kind, changes = RESUMED[name]
    # A checkpoint after every step, many short epochs: the kill lands within one.
    changes = changes | {"ema_decay": 0.9, "save_minutes": 1e-9, "epochs": 40}
    run = tmp_path / "killed" / RUN
    killed = training(replace(TINY_RECIPE, **changes), tiny_data()[kind], tmp_path / "killed")
    wait_for(lambda: has_step(run, 7), killed.process.is_alive)
    assert killed.kill()
    stopped = checkpoint(run)
    assert 0 < stopped["step"] < 40 * stopped["steps_per_epoch"]

    # The kill may have hit an epoch's end; a step more or less makes it the middle.
    changes["max_steps"] = stopped["step"] + 2 * stopped["steps_per_epoch"] + 1
    resumed, whole = fit("killed", on=kind, resume=True, **changes), fit("whole", on=kind, **changes)
    assert checkpoint(resumed)["step"] == changes["max_steps"]
    assert not differing(checkpoint(resumed), checkpoint(whole))
    for event in ("train", "validate"):
        logs = [lines(run, event) for run in (resumed, whole)]
        for line in [*logs[0], *logs[1]]:
            for key in ("images_per_second", "data_wait"):
                line.pop(key, None)
        assert logs[0] == logs[1], "the log of the resumed run has every step once"
    if name == "folder-ols":
        assert stopped["task_state"]["soft_labels"].std(dim=1).max() > 0.01, "not as at the start"


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
    assert not differing(checkpoint(parts), checkpoint(whole))
    assert [line["loss"] for line in lines(parts, "train")] == [line["loss"] for line in lines(whole, "train")]
    fixed = fit("fixed", on=kind, **changes | {"train_sizes": ()})
    assert not torch.equal(checkpoint(fixed)["state_dict"]["fc.weight"], checkpoint(whole)["state_dict"]["fc.weight"])


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_repeated_signals_to_all_processes_save(number: int, processes: int, tmp_path: Path) -> None:
    """Also to those that read the images, and to torchrun, which sends them again."""
    file = script(replace(TINY_RECIPE, epochs=2000, save_minutes=0, validate_every=2000), tmp_path / "script.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    data = ["--data", tiny_data()["folder"], "--out", tmp_path]
    process = start(*launcher, file, *data, start_new_session=True)
    wait_for(lambda: has_step(tmp_path / RUN, 12), lambda: process.poll() is None)
    for _ in range(3):
        os.killpg(process.pid, number)
    done = end(process, 60)
    (step,) = re.findall(r"stopped by signal at step (\d+); continue with --resume", done.stdout)
    assert checkpoint(tmp_path / RUN)["step"] == int(step) >= 12
    if processes == 1:
        assert done.returncode == 128 + number
        assert "Traceback" not in done.stderr


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
        assert not differing(checkpoint(resumed, name), checkpoint(whole, name))


def test_a_run_is_continued_with_its_own_data_only(fit: Fit, tmp_path: Path) -> None:
    source = open_source("digits", True)
    for half in ("train", "val"):
        write_folder(take(source, np.arange(100)), tmp_path / "more" / half)
        part = take(source, np.flatnonzero(source.targets < 9)[:56])
        write_folder(dataclasses.replace(part, classes=source.classes[:9]), tmp_path / "fewer" / half)
    run = fit(on="folder", num_classes=10)
    before = (run / "last.pt").read_bytes()
    for other, message in (("more", "was trained with 5 steps an epoch, there would be 9 now"), ("fewer", "classes")):
        with pytest.raises(SkdError, match=message):
            fit(on=tmp_path / other, num_classes=10, epochs=4, resume=True)
    assert (run / "last.pt").read_bytes() == before


@pytest.mark.parametrize("kind", ["beton", "foreign", "folder"])
def test_data_of_the_same_size_are_told_apart(kind: str, fit: Fit, tmp_path: Path) -> None:
    """The same data elsewhere, touched, written again or as another kind continue a run; other images do not."""
    source, here = open_source("digits", True), tmp_path / "here"
    shutil.copytree(tiny_data()["folder" if kind == "folder" else "beton"], here)
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
        targets = image_folder(tiny_data()["folder"] / half).targets
        other = take(source, np.stack([np.flatnonzero(source.targets == label)[50:56] for label in range(10)], axis=1)
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
        again = tiny_data()["beton" if kind == "folder" else "folder"]
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
        assert not differing(checkpoint(run), checkpoint(fit(f"whole{bool(damage)}", epochs=3, **changes)))
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

    def hold() -> None:
        with only_one(tmp_path / RUN):
            held.touch()
            time.sleep(600)

    held = tmp_path / "held"
    first = Fork(hold, tmp_path / "said.txt")
    wait_for(held.exists, first.process.is_alive)
    with pytest.raises(SkdError, match="is being written by another process"):
        fit()
    assert not (tmp_path / RUN / "recipe.json").exists()
    first.kill()
    fit(epochs=1)


@pytest.fixture
def any_kernels_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.cuda
@pytest.mark.usefixtures("any_kernels_again")
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
    assert not differing(checkpoint(again), checkpoint(whole))
    assert not differing(checkpoint(parts), checkpoint(whole))
