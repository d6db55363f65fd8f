"""Predictions of a model for a whole data set, on one process or many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.errors import SkdError
from ..common.files import atomic
from ..common.meter import tracked

if TYPE_CHECKING:  # torch is imported by the functions: reading a report should not need it
    import torch
    from torch import Tensor, nn

    Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]

_TENSORS = ("logits", "targets", "features", "indices")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about every image of a data set, in the order of the data set. Tensors are on the CPU.

    Attributes:
        logits: ``[N, C]`` float32.
        targets: ``[N]`` int64.
        features: ``[N, D]`` float32, the pooled input of the classifier.
        indices: ``[N]`` int64, positions in the data set, ascending, each once.
        skipped: positions of the images that could not be decoded, with the reason.
    """

    logits: Tensor
    targets: Tensor
    features: Tensor
    indices: Tensor
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        count = len(self.indices)
        for name, dims, dtype in zip(_TENSORS, (2, 1, 2, 1), ("float32", "int64") * 2, strict=True):
            tensor: Tensor = getattr(self, name)
            if tensor.ndim != dims or len(tensor) != count or tensor.dtype != getattr(torch, dtype):
                raise SkdError(
                    f"predictions need {name} as {dims}-dimensional {dtype} of {count} rows, "
                    f"got {list(tensor.shape)} {tensor.dtype}"
                )
        falls = (self.indices[1:] <= self.indices[:-1]).nonzero()
        if len(falls):
            raise SkdError(f"indices of predictions must ascend, but {int(self.indices[falls[0] + 1])} comes too late")

    def __len__(self) -> int:
        return len(self.indices)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file; either the whole file appears or none."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        with atomic(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"skipped": json.dumps(dict(self.skipped))})

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Reads what `save` wrote; raises `SkdError` if it is not there or something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                skipped = json.loads((file.metadata() or {})["skipped"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise SkdError(f"{path} holds no predictions ({error}); `skd evaluate` writes them") from None
        return cls(**tensors, skipped={int(index): reason for index, reason in skipped.items()})


def predict(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    perturb: Perturb | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Predictions:
    """Logits and features of every image of the loader, in evaluation mode.

    With several processes each of them passes its own shard, shards of any length, and gets the predictions of all.
    An error in one process is an error in all of them, instead of a wait without end.

    Args:
        model: a plain classifier, on the loader's device.
        loader: gives normalised images ``[b, 3, H, W]`` and class indices ``[b]``, each image once. It may have
            ``indices``, the positions in the data set of this process's images in order, and ``skipped``, the positions
            of the images that the last pass left out, with the reason. Without them the images are counted.
        perturb: ``perturb(model, input, target) -> input`` changes the images before the forward pass; may use
            gradients.
        autocast_dtype: a lower precision for the network, say ``torch.bfloat16``.

    Raises:
        SkdError: no images, a target that the model has no output for, an image that came twice.
    """
    shard: _Shard | None = None
    error: Exception | None = None
    try:
        with evaluation_mode(model):
            shard = _predict_shard(model, loader, perturb, autocast_dtype)
    except Exception as caught:  # raised again below, in every process, so that none waits for another
        error = caught
    shards = _gather(shard, error, model) if _world_size() > 1 else [shard]
    if error is not None:
        raise error
    return _merge([shard for shard in shards if shard is not None])


@dataclass(frozen=True)
class _Shard:
    """One process's part, in the loader's order. The four tensors are those of `Predictions`."""

    tensors: dict[str, Tensor]
    skipped: dict[int, str]
    counted: bool


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Restores every module's own flag afterwards: a frozen part of a training network stays as it was."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _predict_shard(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    perturb: Perturb | None,
    autocast_dtype: torch.dtype | None,
) -> _Shard:
    import torch

    from ..networks.features import forward_with_features

    parts: dict[str, list[Tensor]] = {"logits": [], "targets": [], "features": []}
    for input, target in tracked(loader, "predicting"):
        if perturb is not None:
            with torch.inference_mode(False), torch.enable_grad():
                input = perturb(model, input, target).detach()
        kind = input.device.type
        with torch.inference_mode(), torch.autocast(kind, autocast_dtype, enabled=autocast_dtype is not None):
            features, logits = forward_with_features(model, input)
        _check_targets(target, logits)
        parts["logits"].append(logits.float().cpu())
        parts["features"].append(features.float().cpu())
        parts["targets"].append(target.long().cpu())
    skipped = {int(index): str(reason) for index, reason in (getattr(loader, "skipped", None) or {}).items()}
    count = sum(map(len, parts["targets"]))
    known = getattr(loader, "indices", None)
    if known is None:
        indices = np.arange(count)
    else:
        named = np.asarray(known, np.int64)
        indices = named[~np.isin(named, list(skipped))] if skipped else named
        if len(indices) != count:
            raise SkdError(
                f"the loader gave {count} images, but its indices name {len(indices)} besides {len(skipped)} skipped"
            )
    # cat copies, outside of inference mode: the results are ordinary tensors.
    tensors = {name: torch.cat(part) if part else torch.empty(0) for name, part in parts.items()}
    return _Shard({**tensors, "indices": torch.from_numpy(indices.copy())}, skipped, counted=known is None)


def _check_targets(target: Tensor, logits: Tensor) -> None:
    if target.is_floating_point() or target.ndim != 1 or len(target) != len(logits):
        raise SkdError(
            f"predict needs class indices [{len(logits)}] as targets, got {list(target.shape)} {target.dtype}"
        )
    classes = logits.shape[1]
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= classes:
        raise SkdError(
            f"the data has target {low if low < 0 else high}, but the model has {classes} outputs "
            f"(0 to {classes - 1}); evaluate it on the data set it was trained for"
        )


def _merge(shards: list[_Shard]) -> Predictions:
    """All shards as one, sorted by index."""
    import torch

    filled = [shard.tensors for shard in shards if len(shard.tensors["indices"])]
    if not filled:
        skipped = sum(len(shard.skipped) for shard in shards)
        raise SkdError(
            "nothing to evaluate: the data gave no images" + (f", {skipped} were skipped" if skipped else "")
        )
    if len(filled) > 1 and any(shard.counted for shard in shards):
        raise SkdError("several processes evaluate, but a loader does not tell the `indices` of its images")
    merged = {name: torch.cat([tensors[name] for tensors in filled]) for name in _TENSORS}
    order = torch.argsort(merged["indices"])
    merged = {name: tensor[order] for name, tensor in merged.items()}
    twice = (merged["indices"][1:] == merged["indices"][:-1]).nonzero()
    if len(twice):
        raise SkdError(
            f"the image with index {int(merged['indices'][twice[0]])} was evaluated twice "
            f"({len(twice)} such images); every process needs its own part of the data"
        )
    return Predictions(**merged, skipped=dict(sorted({k: v for s in shards for k, v in s.skipped.items()}.items())))


def _world_size() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(shard: _Shard | None, error: Exception | None, model: nn.Module) -> list[_Shard | None]:
    """Every process's shard, on every process. Raises on all of them if one failed."""
    import torch
    import torch.distributed as dist

    # What the others need to know before any tensor moves; this also is where they learn of an error.
    mine: dict[str, Any] = {"error": None if error is None else f"{type(error).__name__}: {error}"}
    if shard is not None:
        mine |= {"skipped": shard.skipped, "counted": shard.counted}
        mine["like"] = {name: (tuple(t.shape), t.dtype) for name, t in shard.tensors.items()}
    all_of_them: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(all_of_them, mine)
    for rank, their in enumerate(all_of_them):
        if error is None and their["error"] is not None:
            raise SkdError(f"evaluation failed in process {rank}: {their['error']}")
    if error is not None or shard is None:
        return []
    # gloo moves tensors of the CPU; any other backend those of the model's device.
    device = torch.device("cpu") if dist.get_backend() == "gloo" else next(model.parameters()).device
    shards: list[_Shard | None] = []
    for rank, their in enumerate(all_of_them):
        tensors = {}
        for name, (shape, dtype) in their["like"].items():
            buffer = shard.tensors[name] if rank == dist.get_rank() else torch.empty(shape, dtype=dtype)
            if buffer.numel():  # one broadcast from each process: shards differ in length, and nothing is padded
                moved = buffer.to(device)
                dist.broadcast(moved, src=rank)
                buffer = moved.cpu()
            tensors[name] = buffer
        shards.append(_Shard(tensors, their["skipped"], their["counted"]))
    return shards
