"""The training loop: it learns, takes its options, and refuses early what can't be trained."""

import functools
import gc
import json
import multiprocessing
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_RECIPE
from faults.common import differing, take, tiny_data
from tiny_runs import RUN, Fit, checkpoint, lines, tiny_fit  # noqa: F401  a fixture

from skd_plugins import Recipe, SkdError, create_model, make_loader, replace
from skd_plugins.data import open_source
from skd_plugins.data.augment import Augmentation
from skd_plugins.data.beton.write import write_folder
from skd_plugins.methods.task import MethodTask
from skd_plugins.training.process import choose_kernels, seed_step


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of eight classes, to train and to validate on."""
    source, root = open_source("digits", True), tmp_path_factory.mktemp("sixteen")
    keep = np.concatenate([np.flatnonzero(source.targets == label)[:2] for label in range(8)])
    for half in ("train", "val"):
        write_folder(take(source, keep), root / half)
    return root


@pytest.mark.parametrize("method", ["ce", "cs_kd", "sd_dropout"])
def test_overfits_16_images(method: str, fit: Fit, sixteen: Path) -> None:
    run = fit(
        on=sixteen, workers=0, method=method, method_args={"weight": 0.1} if method == "sd_dropout" else {}, epochs=60,
        batch_size=16, padding=0, schedule="cosine", validate_every=60, log_every=60, momentum=0.9, lr=0.1,
    )  # fmt: skip
    last = lines(run, "validate")[-1]
    assert last["top1"] == 1.0
    assert last["nll"] < 0.3


def test_five_cs_kd_steps_equal_a_plain_script(fit: Fit) -> None:
    """The engine against a loop written from Algorithm 1 and Eq. 1 of CS-KD: bit-equal weights."""
    arguments = {"weight": 2.0, "temperature": 4.0}
    run = fit(method="cs_kd", method_args=arguments, max_steps=5, schedule="constant", epochs=3)

    seed_step(TINY_RECIPE.seed, 0, 0)
    net = create_model("resnet10t", num_classes=10, **TINY_RECIPE.model_args)
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    path, spec = tiny_data()["beton"] / "train.beton", Augmentation.of(TINY_RECIPE)
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
    assert not differing(dict(net.state_dict()), dict(checkpoint(run)["state_dict"]))


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
    bank = {"base": "cs_kd", "base_args": {"pairing": "bank"}}
    fit(compile=True, epochs=2, eval_batch_size=5, ema_decay=0.9, method="sd_dropout", method_args=bank)
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
        ({"model": "densenet121", "model_args": {}, "image_size": 3}, "image_size=3: DenseNet can't"),
        (
            {"train_sizes": ((0, 3),), "image_size": 64, "model": "densenet121", "model_args": {}},
            "image_size=3: DenseNet can't",
        ),
        ({"optimizer": "sdg"}, "sdg"),
        ({"trackers": ("tensorbord",)}, "tracker 'tensorbord' is unknown or not installed; available: "),
        ({"batch_size": 100, "grad_accumulation": 30}, "batch_size=100"),
        ({"method": "cs_kd", "method_args": {"pairing": "bank"}, "mixup": 0.2}, "class indices"),
        ({"method": "virtual_softmax", "cutmix": 1.0}, "virtual_softmax needs class indices"),
        ({"initial_weights": str(nowhere)}, "nothing does not exist"),
        ({"lr": 0.1, "resume": True, "seed": 0}, r"continued with another recipe \(lr was 0.05, is 0.1\)"),
    ]:
        with pytest.raises(SkdError, match=message):
            fit(**({"seed": 1} | changes))
    assert (run / "last.pt").read_bytes() == before


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


# ---- on a GPU: make gpu-test -----------------------------------------------------------------------------------------


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
