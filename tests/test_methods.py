"""Laws that hold for every registered method, on timm and torchvision networks."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from faults.common import together
from timm.utils import unwrap_model

from skd_plugins import create_model, create_task, get_method, list_methods
from skd_plugins.common.errors import SkdError
from skd_plugins.common.gather import gather_rows
from skd_plugins.methods.task import MethodTask

CLASSES, BATCH, SIZE = 5, 4, 32
# Every method with the arguments that change its shape, and every composition. A new method is added here, or the first
# test fails. TEACHER stands for a network that is made when it is needed.
TEACHER = "a network"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in list_methods()},
    "kd": ("kd", {"teacher": TEACHER}),
    "dropout-2": ("dropout", {"samples": 2}),
    "cs_kd-batch": ("cs_kd", {"pairing": "batch"}),
    "cs_kd-bank": ("cs_kd", {"pairing": "bank"}),
    "bake-batch": ("bake", {"pairing": "batch"}),
    "kd-cs_kd": ("kd", {"teacher": TEACHER, "base": "cs_kd"}),
    "kd-sd_dropout": ("kd", {"teacher": TEACHER, "base": "sd_dropout"}),
    "sd_dropout-reverse": ("sd_dropout", {"direction": "reverse"}),
    "sd_dropout-3": ("sd_dropout", {"samples": 3}),
    "sd_dropout-layer1": ("sd_dropout", {"position": "layer1"}),
    "sd_dropout-layer3": ("sd_dropout", {"position": "layer3"}),
    "sd_dropout-label_smoothing": ("sd_dropout", {"base": "label_smoothing"}),
    "sd_dropout-max_entropy": ("sd_dropout", {"base": "max_entropy"}),
    "sd_dropout-cs_kd": ("sd_dropout", {"base": "cs_kd", "weight": 0.1}),
    "sd_dropout-cs_kd-layer2": ("sd_dropout", {"base": "cs_kd", "position": "layer2"}),
    "sd_dropout-cs_kd-bank": ("sd_dropout", {"base": "cs_kd", "base_args": {"pairing": "bank"}, "weight": 0.1}),
    "sd_dropout-cs_kd_e": ("sd_dropout", {"base": "cs_kd_e", "weight": 0.1}),
    "sd_dropout-ddgsd": ("sd_dropout", {"base": "ddgsd", "weight": 0.1}),
    "sd_dropout-byot": ("sd_dropout", {"base": "byot", "weight": 0.1}),
    "sd_dropout-zipf_ls": ("sd_dropout", {"base": "zipf_ls", "weight": 0.1}),
    "sd_dropout-dml": ("sd_dropout", {"base": "dml", "weight": 0.1}),
}
MODELS = {
    "timm": ("resnet10t", {"channels": (8, 16, 24, 32), "zero_init_last": False}),  # zeros would have no gradient yet
    "torchvision": ("torchvision/resnet18", {}),
    "densenet": ("densenet121_cifar", {"growth_rate": 8, "block_config": (1, 1, 1, 1)}),
    "preact": ("preact_resnet10_cifar", {"channels": (8, 16, 24, 32)}),
}
GROUP_NORM = {"channels": (8, 16, 24, 32), "norm_layer": "groupnorm1"}
# Compiling takes seconds, so of the compositions only those whose step is not the sum of two that are there.
COMPILED = [
    variant for variant, (name, _) in VARIANTS.items() if variant == name or name == "cs_kd" or "layer" in variant
] + ["kd-cs_kd", "sd_dropout-cs_kd", "sd_dropout-ddgsd", "sd_dropout-byot"]


def network(variant: str, model: str = "timm", **model_args: Any) -> torch.nn.Module:
    """A new network with the classifier that the variant's method needs."""
    arch, defaults = MODELS[model]
    classifier = get_method(VARIANTS[variant][0]).classifier
    return create_model(arch, num_classes=CLASSES, classifier=classifier, **(model_args or defaults))


def make_task(variant: str, model: str = "timm", **model_args: Any) -> MethodTask:
    name, arguments = VARIANTS[variant]
    if "teacher" in arguments:
        torch.manual_seed(7)
        arguments = arguments | {"teacher": network(variant, "timm", **model_args)}
    torch.manual_seed(0)
    task = create_task(name, network(variant, model, **model_args), **arguments).train()
    task.method.begin_epoch(1, 4)
    return task


def make_batch(task: MethodTask, seed: int = 0, size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    segments = len(task.method.segments)
    input = torch.randn(segments * size, 3, SIZE, SIZE, generator=generator)
    target = torch.arange(size // 2).remainder(CLASSES).repeat_interleave(2)  # each class twice, neighbours
    return input, target.repeat(segments)


def two_steps(task: MethodTask) -> dict[str, torch.Tensor]:
    """The second step's result: a bank is empty in the first."""
    task(*make_batch(task, 0))
    return task(*make_batch(task, 1))


def test_every_method_has_a_variant() -> None:
    assert len(list_methods()) >= 13
    assert set(list_methods()) == {name for name, _ in VARIANTS.values()}
    assert set(list_methods()) == {VARIANTS[variant][0] for variant in COMPILED}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_result_and_gradients(variant: str, model: str) -> None:
    task = make_task(variant, model)
    result = two_steps(task)
    assert result["loss"].ndim == 0
    assert result["loss"].requires_grad
    assert result["output"].shape == (BATCH, CLASSES)
    assert result["features"].ndim == 2
    scalars = {key: value for key, value in result.items() if value.ndim == 0}
    assert not any(value.requires_grad for key, value in scalars.items() if key != "loss")
    terms = [value.item() for key, value in scalars.items() if key not in ("loss", "ce")]
    assert all(term > 0 for term in terms), "every term does something in this batch"
    result["loss"].backward()
    without = [
        name for name, parameter in task.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_features_are_the_networks(variant: str) -> None:
    task = make_task(variant, **GROUP_NORM)
    input, target = make_batch(task)
    model = task.method.model
    output = model(input[:BATCH])
    features = model.forward_head(model.forward_features(input[:BATCH]), pre_logits=True)
    result = task(input, target)
    torch.testing.assert_close(result["output"], output)
    torch.testing.assert_close(result["features"], features)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_keys_are_the_plain_networks(variant: str, model: str) -> None:
    plain = network(variant, model)
    task = make_task(variant, model)
    task.setup_ema()
    assert list(task.get_checkpoint_state()["state_dict"]) == list(plain.state_dict())
    assert list(task.get_checkpoint_state(ema=True)["state_dict_ema"]) == list(plain.state_dict())
    plain.load_state_dict(task.get_checkpoint_state()["state_dict"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_is_the_plain_network(variant: str) -> None:
    task = make_task(variant)
    two_steps(task)
    state = copy.deepcopy(task.get_checkpoint_state()["state_dict"])
    plain = network(variant).eval()
    plain.load_state_dict(state)
    input, _ = make_batch(task, 9)
    with torch.no_grad():
        assert torch.equal(task.get_eval_model().eval()(input), plain(input))


@pytest.mark.parametrize("variant", VARIANTS)
def test_average_moves_towards_the_weights_once_a_step(variant: str) -> None:
    task = make_task(variant)
    task.setup_ema(decay=0.75)
    before = copy.deepcopy(task.get_eval_model(ema=True).state_dict())
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    two_steps(task)["loss"].backward()
    optimizer.step()
    task.update_ema(10)  # timm's average copies the weights in its first updates
    after = task.get_eval_model(ema=True).state_dict()
    current = task.method.model.state_dict()
    for key, value in after.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[key] + 0.25 * current[key], msg=key)
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoint_restores_task_and_network(variant: str) -> None:
    task = make_task(variant)
    two_steps(task)
    state = copy.deepcopy(task.get_checkpoint_state())
    other = make_task(variant)
    other.load_checkpoint_state(state["state_dict"], state.get("task_state"))
    for key, value in task.method.state_dict().items():
        assert torch.equal(other.method.state_dict()[key], value), key
    parts = {key.split(".")[0 if "base" not in key else 1] for key in task.get_task_state()}
    owns: dict[str, set[str]] = {
        "bank": {"bank"},
        "byot": {"branches"},
        "dks": {"branches"},
        "dml": {"peer"},
        "uskd": {"weak"},
    }
    owns |= {name: set() for name in ("ce", "cs_kd", "kd", "sd_dropout", "label_smoothing", "dropout", "layer1")}
    assert parts == owns.get(variant.rpartition("-")[2], parts)
    assert ("task_state" in state) == bool(parts)
    if parts:
        with pytest.raises(SkdError, match="does not fit method"):
            other.load_checkpoint_state(state["state_dict"], None)


@pytest.mark.parametrize("variant", COMPILED)
def test_compiled_step_equals_eager(variant: str) -> None:
    torch._dynamo.reset()  # after eight graphs of one function, dynamo runs it eagerly
    eager, compiled = make_task(variant, "preact"), make_task(variant, "preact")  # the network that compiles fastest
    compiled.compile(backend="aot_eager")  # traces and differentiates like inductor, without its C++ compiler
    for task in (eager, compiled):
        for seed in range(2):
            torch.manual_seed(3)
            task.zero_grad()
            result = task(*make_batch(task, seed))
            result["loss"].backward()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert list(compiled.get_checkpoint_state()["state_dict"]) == list(eager.get_checkpoint_state()["state_dict"])
    reference = dict(eager.method.named_parameters())
    for name, parameter in unwrap_model(compiled.trainable_module).method.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, msg=name)


@functools.cache
def kept_by_autocast(variant: str) -> float:
    """Cosine of a bfloat16 and a float32 step's gradients, of 16 images since BatchNorm amplifies rounding in 4."""
    terms, found = [], []
    for enabled in (True, False):
        task = make_task(variant)
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            task(*make_batch(task, 0, 16))
            result = task(*make_batch(task, 1, 16))
        result["loss"].backward()
        assert result["loss"].dtype == torch.float32
        assert result["output"].dtype == (torch.bfloat16 if enabled else torch.float32)
        assert all(parameter.grad is not None for parameter in task.parameters())
        terms.append(result["ce"].item())
        found.append(torch.cat([gradient.flatten() for gradient in gradients(task).values()]))
    assert terms[0] == pytest.approx(terms[1], rel=0.1)
    return torch.cosine_similarity(*found, dim=0).item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_keeps_the_gradient_as_for_cross_entropy(variant: str) -> None:
    assert kept_by_autocast(variant) > max(kept_by_autocast("ce") - 0.05, 0.9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_in_bfloat16(variant: str) -> None:
    """As with timm's ``--model-dtype``: what a method adds has the network's type, and the loss is float32."""
    name, arguments = VARIANTS[variant]
    teacher = {"teacher": network("ce")} if "teacher" in arguments else {}
    task = create_task(name, network(variant).bfloat16(), **arguments | teacher).train()
    task.method.begin_epoch(1, 4)
    input, target = make_batch(task)
    loss = task(input.bfloat16(), target)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("variant", VARIANTS)
def test_soft_targets(variant: str) -> None:
    task = make_task(variant)
    input, target = make_batch(task)
    soft = torch.nn.functional.one_hot(target, CLASSES).float()
    if "mixup" in task.method.refuses:
        with pytest.raises(SkdError, match="class indices"):
            task(input, soft)
        return
    torch.manual_seed(1)
    from_soft = task(input, soft)["ce"].item()
    torch.manual_seed(1)
    assert from_soft == pytest.approx(task(input, target)["ce"].item(), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_passes_are_counted(variant: str) -> None:
    """The step's cost is what the method says: passes of B images through the first layer of any network in it."""
    task = make_task(variant)
    batch = make_batch(task)
    rows = {True: 0, False: 0}

    def count(module: torch.nn.Module, args: Any) -> None:
        rows[torch.is_grad_enabled()] += len(args[0])

    teacher = list(getattr(task.method, "_teacher", ()))
    for part in [*task.method.modules(), *(module for network in teacher for module in network.modules())]:
        if isinstance(part, torch.nn.Conv2d) and part.in_channels == 3:
            part.register_forward_pre_hook(count)
    task(*batch)
    assert (rows[True] / BATCH, rows[False] / BATCH) == task.method.passes
    assert task.method.step_cost == pytest.approx(task.method.passes[0] + task.method.passes[1] / 3)


def test_a_batch_of_the_wrong_shape_is_refused() -> None:
    task = make_task("cs_kd")
    input, target = make_batch(task)
    with pytest.raises(ValueError, match="segments"):
        task(input[:-1], target[:-1])
    with pytest.raises(ValueError, match="targets"):
        task(input, target[:BATCH])


def test_bad_arguments() -> None:
    model = create_model("resnet10t", num_classes=CLASSES)
    for name, arguments, message in [
        ("sd_dropuot", {}, "did you mean 'sd_dropout'"),
        ("sd_dropout", {"wieght": 1}, "did you mean 'weight'"),
        ("sd_dropout", {"weight": "abc"}, "weight should be a valid number"),
        ("sd_dropout", {"weight": -1}, "weight should be greater than or equal to 0, got -1"),
        ("sd_dropout", {"weight": float("nan")}, "weight should be a finite number"),
        ("sd_dropout", {"drop_rate": 1.0}, "drop_rate should be less than 1"),
        ("sd_dropout", {"direction": "sideways"}, "direction should be"),
        ("sd_dropout", {"base": "sd_dropout"}, "base= has to name another method"),
        ("sd_dropout", {"base": "cs_kd", "base_args": {"temp": 1}}, "temperature"),
        ("cs_kd", {"temperature": 0}, "temperature should be greater than 0"),
        ("cs_kd", {"pairing": "none"}, "pairing should be"),
        ("ce", {"weight": 1}, "takes no arguments"),
        ("sd_dropout", {"base": "adacos"}, "adacos needs a network with a cosine classifier"),
        ("sd_dropout", {"base": "virtual_softmax"}, "can't be added to virtual_softmax: whether dropped features"),
        ("sd_dropout", {"base": "dropout"}, "can't be added to dropout: it drops the same features already"),
        ("sd_dropout", {"base": "kd", "base_args": {"teacher": model}}, "kd comes last; use kd with base=sd_dropout"),
        ("sd_dropout", {"samples": 1}, "samples should be greater than or equal to 2"),
        ("sd_dropout", {"position": "layer4"}, "position should be"),
        ("kd", {}, "method 'kd' needs the argument 'teacher'"),
        ("kd", {"teacher": model, "base": "kd", "base_args": {"teacher": model}}, "it has a teacher already"),
        ("kd", {"teacher": "resnet18.a1_in1k"}, "have 1000 classes, the network 5"),
        ("kd", {"teacher": "no_such_net"}, "not a name of weights"),
        ("kd", {"teacher": "missing.safetensors"}, "does not exist"),
        ("kd", {"teacher": "test_vit_nope.pt"}, "does not exist"),
        ("kd", {"teacher": create_model("resnet10t", num_classes=3)}, "has 3 classes, the network 5"),
        ("adacos", {}, 'model_args={"classifier": "cosine"}'),
        ("dropout", {"drop_rate": 0}, "drop_rate should be greater than 0"),
        ("label_smoothing", {"label_smoothing": 1.0}, "label_smoothing should be less than 1"),
        ("bake", {"omega": 1}, "omega should be less than 1"),
        ("ps_kd", {"alpha": 1.5}, "alpha should be less than or equal to 1"),
    ]:
        with pytest.raises(SkdError, match=message):
            create_task(name, model, **arguments)


# ---- two real processes ----------------------------------------------------------------------------------------------


def rank_batch(task: MethodTask, rank: int, world: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's share of a batch of 2 * BATCH anchors, split within each segment."""
    input, target = make_batch(task, seed, 2 * BATCH)
    segments = len(task.method.segments)
    mine = [part.chunk(world)[rank] for part in input.chunk(segments)]
    return torch.cat(mine), torch.cat([part.chunk(world)[rank] for part in target.chunk(segments)])


def gradients(task: MethodTask) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in task.method.named_parameters()}


def learned_state(task: MethodTask) -> dict[str, torch.Tensor]:
    """The task state without BatchNorm's statistics of training-only parts, which are each process's own."""
    return {key: value for key, value in task.get_task_state().items() if "running_" not in key and "num_b" not in key}


def distributed_steps(task: MethodTask, rank: int) -> dict[str, dict[str, torch.Tensor]]:
    task.prepare_distributed(broadcast_buffers=False, gradient_as_bucket_view=True)  # as in training
    for step in range(2):
        torch.manual_seed(100 * step + rank)
        task.zero_grad()
        task(*rank_batch(task, rank, 2, step))["loss"].backward()
    found = {"gradients": gradients(task), "state": learned_state(task)}
    task.end_distributed()
    return found


def run_rank(out: Path) -> None:
    """One process of `test_two_processes`."""
    dist.init_process_group("gloo")
    collected: dict[str, Any] = {
        variant: distributed_steps(make_task(variant, **GROUP_NORM), dist.get_rank()) for variant in VARIANTS
    }
    collected["gathered"] = gather_rows(torch.arange(dist.get_rank() + 1))
    for variant in ("adacos", "cs_kd-bank"):  # they exchange something in every step, as a part of the graph
        task = make_task(variant, **GROUP_NORM)
        task.equal_batches = True
        task.compile(backend="aot_eager", fullgraph=True)
        collected[f"{variant} compiled"] = distributed_steps(task, dist.get_rank())
    torch.save(collected, out / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    """Gradients are equal on both processes, and equal to those of one process that averages both halves.

    They are on two machines, as far as they can see.
    """
    together(lambda: run_rank(tmp_path), tmp_path, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["gathered"].tolist() == second["gathered"].tolist() == [0, 0, 1]
    for variant in ("adacos", "cs_kd-bank"):
        for key, value in first[f"{variant} compiled"]["gradients"].items():
            torch.testing.assert_close(value, first[variant]["gradients"][key], msg=f"{variant} {key}")
        for key, value in first[f"{variant} compiled"]["state"].items():
            torch.testing.assert_close(value, first[variant]["state"][key], msg=f"{variant} {key}")
    for variant in VARIANTS:
        for name, value in first[variant]["gradients"].items():
            assert torch.equal(value, second[variant]["gradients"][name]), (variant, name)
        for key, value in first[variant]["state"].items():
            assert torch.equal(value, second[variant]["state"][key]), (variant, key)

        # Alone: both halves with the generators that the two processes had, their losses averaged. A bank sees the
        # whole batch at once, so it is frozen for the halves and then written with both. AdaCos' scale and BAKE's
        # ensemble are those of the whole batch, so they get it.
        task = make_task(variant, **GROUP_NORM)
        for step in range(2):
            task.zero_grad()
            if variant.startswith(("adacos", "bake")):
                task(*rank_batch(task, 0, 1, step))["loss"].backward()
                continue
            bank = copy.deepcopy(task.get_task_state()) if variant.endswith("bank") else {}
            for rank in range(2):
                if bank:
                    task.load_task_state(bank)
                torch.manual_seed(100 * step + rank)
                (task(*rank_batch(task, rank, 2, step))["loss"] / 2).backward()
            if bank:
                task.load_task_state(bank)
                with torch.no_grad():
                    task(*rank_batch(task, 0, 1, step))
        for name, value in gradients(task).items():
            torch.testing.assert_close(
                first[variant]["gradients"][name], value, rtol=1e-4, atol=1e-6, msg=f"{variant} {name}"
            )
        for key, value in learned_state(task).items():
            torch.testing.assert_close(first[variant]["state"][key], value, msg=f"{variant} {key}")
