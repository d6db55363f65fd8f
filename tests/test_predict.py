"""Predictions: exact for any data set, on one process or several, without a trace left in the model."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from test_attacks import Net
from torch import Tensor, nn

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import Predictions, predict


def network(classes: int = 5) -> nn.Module:
    """With BatchNorm and dropout, which both differ between training and evaluation."""
    return Net(classes=classes).float()


def images(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(100, 3, 6, 6, generator=generator)[:count], torch.arange(count) % 5


class Loader:
    """What the project's loaders promise: batches, the indices of this process, and the images it had to skip."""

    def __init__(self, indices: list[int], *, batch: int = 4, broken: tuple[int, ...] = (), lost: int = 0) -> None:
        self.input, self.target = images(100)
        self.indices = np.array(indices, np.int64)
        self.batch, self.broken, self.lost = batch, broken, lost
        self.skipped: dict[int, str] = {99: "of an earlier pass"}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = {i: "truncated" for i in self.indices.tolist() if i in self.broken}
        whole = [i for i in self.indices.tolist() if i not in self.broken][self.lost :]
        for start in range(0, len(whole), self.batch):
            part = whole[start : start + self.batch]
            yield self.input[part], self.target[part]


def broken(*_: object) -> Tensor:
    raise RuntimeError("on purpose")


def assert_predicts(result: Predictions, indices: list[int]) -> None:
    """Against the network, image by image."""
    model = network().eval()
    input, target = images(100)
    with torch.no_grad():
        features = torch.cat([model.body(input[i : i + 1]) for i in indices])
        torch.testing.assert_close(result.logits, model.fc(features))
    torch.testing.assert_close(result.features, features)
    assert torch.equal(result.targets, target[indices])
    assert result.indices.tolist() == indices


@pytest.mark.parametrize("count", [1, 3, 4, 17])
def test_any_size_in_data_set_order(count: int) -> None:
    shuffled = np.random.default_rng(0).permutation(count).tolist()
    assert_predicts(predict(network(), Loader(shuffled)), list(range(count)))


def test_results_of_a_plain_iterable_are_plain_tensors() -> None:
    result = predict(Net(), [(images(3)[0].double(), images(3)[1].int())])
    assert_predicts(result, [0, 1, 2])
    assert (result.logits.dtype, result.features.dtype) == (torch.float32, torch.float32)
    assert (result.targets.dtype, result.indices.dtype) == (torch.int64, torch.int64)
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in (result.logits, result.features))


def test_every_training_flag_is_restored() -> None:
    model = network()
    model.train()
    model.body[1].eval()  # a frozen BatchNorm inside a training network
    flags = [module.training for module in model.modules()]
    running = model.body[1].running_mean.clone()
    predict(model, Loader([0, 1, 2]))
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model.body[1].running_mean, running)
    with pytest.raises(RuntimeError, match="on purpose"):
        predict(model, Loader([0, 1, 2]), perturb=broken)
    assert [module.training for module in model.modules()] == flags, "after an error too"


def test_perturb_gets_gradients_and_its_result_is_used() -> None:
    seen: list[tuple[bool, bool]] = []

    def perturb(model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        seen.append((model.training, torch.is_inference_mode_enabled()))
        input = input.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(input), target)
        (gradient,) = torch.autograd.grad(loss, input)
        return input + 0.5 * gradient.sign()

    model, loader = network(), Loader(list(range(12)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # whatever the caller has switched off or on
        attacked = predict(model, loader, perturb=perturb)
    plain = predict(model, loader)
    assert seen == [(False, False)] * 3
    assert all(parameter.grad is None for parameter in model.parameters())
    clean, hurt = (nn.functional.cross_entropy(p.logits, p.targets).item() for p in (plain, attacked))
    assert hurt > clean + 0.1

    model.eval()
    stepped = perturb(model, loader.input[:12], loader.target[:12]).detach()
    torch.testing.assert_close(attacked.logits, model(stepped).detach())


def test_flip_averages_an_image_and_its_mirror_image() -> None:
    model, loader = network(), Loader(list(range(10)))
    result = predict(model, loader, flip=True)
    input = loader.input[:10]
    with torch.no_grad():
        both = [model.eval()(each) for each in (input, torch.from_numpy(input.numpy()[..., ::-1].copy()))]
        features = [model.body(each) for each in (input, input.flip(3))]
    torch.testing.assert_close(result.logits, (both[0] + both[1]) / 2)
    torch.testing.assert_close(result.features, (features[0] + features[1]) / 2)
    assert (both[0] - both[1]).abs().max() > 0.01, "the network tells them apart"


def batch(*target: int) -> list[tuple[Tensor, Tensor]]:
    return [(images(len(target))[0], torch.tensor(target))]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (batch(0, 7), r"target 7, but the model has 5 outputs \(0 to 4\)"),
        ([], "gave no images"),
        (Loader([0, 1], broken=(0, 1)), "no images, 2 were skipped"),
        (Loader([2, 3, 4, 3]), "index 3 was evaluated twice"),
        ([(images(2)[0], torch.ones(2, 5))], r"class indices \[2\] as targets, got \[2, 5\]"),
        (Loader([0, 1], lost=1), "gave 1 images, but its indices name 2"),
    ],
)
def test_bad_loaders_are_named(loader: Loader, message: str) -> None:
    with pytest.raises(SkdError, match=message):
        predict(network(), loader)


def test_skipped_images_are_absent_and_files_are_read_again(tmp_path: Path) -> None:
    result = predict(network(), Loader(list(range(9)), broken=(3,)))
    assert_predicts(result, [0, 1, 2, 4, 5, 6, 7, 8])
    result.save(tmp_path / "deep" / "predictions.safetensors")
    again = Predictions.load(tmp_path / "deep" / "predictions.safetensors")
    for name in ("logits", "targets", "features", "indices"):
        assert torch.equal(getattr(again, name), getattr(result, name)), name
    assert again.skipped == {3: "truncated"}
    (tmp_path / "text").write_text("no tensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights")
    for name in ("absent", "text", "weights"):
        with pytest.raises(SkdError, match=f"{name} holds no predictions"):
            Predictions.load(tmp_path / name)


FIRST, SECOND = np.split(np.random.default_rng(0).permutation(17), [11])
SCENARIOS: dict[str, Callable[[int], Predictions]] = {  # what process `rank` of two does
    # 11 + 6 images of 17, in an order of their own, in batches of 4 and of 3
    "uneven": lambda rank: predict(network(), Loader((SECOND if rank else FIRST).tolist(), batch=4 - rank)),
    "empty": lambda rank: predict(network(), Loader(list(range(7)) if rank else [])),
    "skipped": lambda rank: predict(network(), Loader(list(range(rank, 10, 2)), broken=(1, 8))),
    "twice": lambda rank: predict(network(), Loader([rank, rank + 1])),
    # only the second process meets the bad target
    "target": lambda rank: predict(network(3 if rank else 5), Loader(list(range(rank, 8, 2)))),
    "crash": lambda rank: predict(network(), Loader(list(range(rank, 8, 2))), perturb=None if rank else broken),
    "uncounted": lambda rank: predict(network(), [images(4)]),
}


def worker(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    outcomes = {}
    for name, scenario in SCENARIOS.items():
        try:
            scenario(rank).save(folder / f"{name}-{rank}.safetensors")
            outcomes[name] = "fine"
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}"
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    fork = multiprocessing.get_context("fork")  # which has imported torch already
    processes = [fork.Process(target=worker, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


def outcomes(folder: Path, name: str) -> list[str]:
    return [json.loads((folder / f"outcomes-{rank}.json").read_text())[name] for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "indices"), [("uneven", list(range(17))), ("empty", list(range(7))), ("skipped", [0, 2, 3, 4, 5, 6, 7, 9])]
)
def test_every_process_gets_all_predictions(two_processes: Path, name: str, indices: list[int]) -> None:
    assert outcomes(two_processes, name) == ["fine", "fine"]
    for rank in range(2):
        result = Predictions.load(two_processes / f"{name}-{rank}.safetensors")
        assert_predicts(result, indices)
        assert result.skipped == ({1: "truncated", 8: "truncated"} if name == "skipped" else {})


BAD_TARGET = "SkdError: the data has target 3, but the model has 3 outputs (0 to 2); evaluate it on the data set it was"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("twice", "SkdError: the image with index 1 was evaluated twice", None),
        ("target", f"SkdError: evaluation failed in process 1: {BAD_TARGET}", BAD_TARGET),
        ("crash", "RuntimeError: on purpose", "SkdError: evaluation failed in process 0: RuntimeError: on purpose"),
        (
            "uncounted",
            "SkdError: the image with index 0 was evaluated twice (4 such images); every process needs",
            None,
        ),
    ],
)
def test_errors_reach_every_process(two_processes: Path, name: str, first: str, second: str | None) -> None:
    """Without this, the others would wait for the failed one for ever."""
    found = outcomes(two_processes, name)
    assert found[0].startswith(first)
    assert found[1].startswith(second or first)
