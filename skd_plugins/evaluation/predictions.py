"""Predictions of a model for a whole data set, on one process or many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import atomic
from ..common.meter import tracked
from ..networks.features import forward_with_features

Perturb: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
_TENSORS = ("logits", "targets", "features", "indices")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for every image of a data set, in the order of the data set. Tensors are on the CPU.

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

    def __len__(self) -> int:
        return len(self.indices)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file atomically."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        with atomic(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"skipped": json.dumps(dict(self.skipped))})

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Reads what `save` wrote."""
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

    With several processes, each passes its own shard, of any length, and gets the predictions of all. An error in one
    process is raised in all of them, so that none waits forever.

    Args:
        model: a plain classifier, on the loader's device.
        loader: gives normalised images ``[b, 3, H, W]`` and class indices ``[b]``, each image once. It may have
            ``indices``, the data set positions of this process's images in order, and ``skipped``, the positions of
            the images that the last pass left out, with the reason. Without them the images are counted.
        perturb: ``perturb(model, input, target) -> input`` changes the images before the forward pass. It may use
            gradients.
        autocast_dtype: a lower precision for the network, such as ``torch.bfloat16``.
    """
    shard: _Shard | None = None
    error: Exception | None = None
    try:
        with evaluation_mode(model):
            shard = _predict_shard(model, loader, perturb, autocast_dtype)
    except Exception as caught:  # raised again below, in every process
        error = caught
    return _merge([shard for shard in _gather(shard, error) if shard is not None])


@dataclass(frozen=True)
class _Shard:
    """One process's part of the predictions, in the loader's order."""

    tensors: dict[str, Tensor]
    skipped: dict[int, str]
    counted: bool


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module gets its own flag back, also a frozen part of a training network."""
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
    named = np.arange(count) if known is None else np.asarray(known, np.int64)
    indices = named if known is None else named[~np.isin(named, list(skipped))]
    if len(indices) != count:
        raise SkdError(
            f"the loader gave {count} images, but its indices name {len(indices)} besides {len(skipped)} skipped"
        )
    # cat copies, outside of inference mode: the results are ordinary tensors.
    tensors = {name: torch.cat(part) if part else torch.empty(0) for name, part in parts.items()}
    return _Shard({**tensors, "indices": torch.from_numpy(indices)}, skipped, counted=known is None)


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
    filled = [shard.tensors for shard in shards if len(shard.tensors["indices"])]
    if not filled:
        skipped = sum(len(shard.skipped) for shard in shards)
        raise SkdError(
            "nothing to evaluate: the data gave no images" + (f", {skipped} were skipped" if skipped else "")
        )
    if len(filled) > 1 and any(shard.counted for shard in shards):
        raise SkdError("several processes evaluate, but a loader has no `indices` of its images; make_loader sets them")
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


def _gather(shard: _Shard | None, error: Exception | None) -> list[_Shard | None]:
    """Every process's shard, on every process. Raises on all of them if one failed."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        gathered: list[Any] = [(shard, None)]
    else:
        gathered = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (shard, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, failure) in enumerate(gathered):
        if failure is not None:
            raise SkdError(f"evaluation failed in process {rank}: {failure}")
    return [theirs for theirs, _ in gathered]
