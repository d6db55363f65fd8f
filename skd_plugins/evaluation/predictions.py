"""Predictions of a model for a whole data set, on one process or many."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import atomic
from ..common.meter import tracked
from ..networks.features import forward_with_features

Perturb: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]  # perturb(model, input, target) -> input
_TENSORS = ("logits", "targets", "features", "indices")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for every image of a data set, in the order of the data set. Tensors are on the CPU.

    ``logits [N, C]`` and ``features [N, D]``, the pooled input of the classifier, are float32, ``targets [N]`` int64.
    ``indices [N]`` are the ascending positions in the data set. `skipped` has the positions of the images that could
    not be decoded, with the reason.
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
    def load(cls, path: str | Path) -> "Predictions":
        """Reads what `save` wrote."""
        try:
            with safe_open(path, framework="pt") as file:
                skipped = from_json((file.metadata() or {})["skipped"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise SkdError(f"{path} holds no predictions ({error}); `skd evaluate` writes them") from None
        return cls(**tensors, skipped={int(index): reason for index, reason in skipped.items()})


def predict(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    perturb: Perturb | None = None,
    flip: bool = False,
) -> Predictions:
    """Logits and features of every image of the loader, in evaluation mode.

    With several processes, each passes its own shard, of any length, and gets the predictions of all. An error in one
    process is raised in all of them, so that none waits forever.

    Args:
        model: a plain classifier, on the loader's device.
        loader: gives normalised images ``[b, 3, H, W]`` and class indices ``[b]``, each image once. It may have
            ``indices``, the data set positions of this process's images in order, and ``skipped``, the positions of
            the images that the last pass left out, with the reason. Without them the images are counted.
        perturb: changes the images before the forward pass. It may use gradients.
        flip: the means of the logits and features of each image and its mirror image, in two forward passes.
    """
    shard: Predictions | None = None
    error: Exception | None = None
    try:
        with evaluation_mode(model):
            shard = _predict_shard(model, loader, perturb, flip)
    except Exception as caught:  # raised again below, in every process
        error = caught
    return _merge(_gather(shard, error))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode. Afterwards every module gets its own flag back, even a frozen part of a training network."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _predict_shard(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], perturb: Perturb | None, flip: bool
) -> Predictions:
    """This process's part of the predictions, in the loader's order."""
    parts: dict[str, list[Tensor]] = {"logits": [], "targets": [], "features": []}
    for input, target in tracked(loader, "predicting"):
        if perturb is not None:
            with torch.inference_mode(False), torch.enable_grad():
                input = perturb(model, input, target).detach()
        with torch.inference_mode(), torch.autocast(input.device.type, enabled=False):
            features, logits = forward_with_features(model, input)
            if flip:
                mirrored = forward_with_features(model, input.flip(-1))
                features, logits = (features + mirrored[0]) / 2, (logits + mirrored[1]) / 2
        if target.is_floating_point() or target.shape != logits.shape[:1]:
            raise SkdError(
                f"predict needs class indices [{len(logits)}] as targets, got {list(target.shape)} {target.dtype}"
            )
        classes, low, high = logits.shape[1], int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise SkdError(
                f"the data has target {low if low < 0 else high}, but the model has {classes} outputs "
                f"(0 to {classes - 1}); evaluate it on the data set it was trained for"
            )
        parts["logits"].append(logits.float().cpu())
        parts["features"].append(features.float().cpu())
        parts["targets"].append(target.long().cpu())
    skipped = {int(index): str(reason) for index, reason in (getattr(loader, "skipped", None) or {}).items()}
    count = sum(map(len, parts["targets"]))
    given = getattr(loader, "indices", None)
    indices = np.array(range(count) if given is None else [i for i in given if i not in skipped], np.int64)
    if len(indices) != count:
        raise SkdError(
            f"the loader gave {count} images, but its indices name {len(indices)} besides {len(skipped)} skipped"
        )
    # cat copies, outside of inference mode: the results are ordinary tensors.
    tensors = {name: torch.cat(part) if part else torch.empty(0) for name, part in parts.items()}
    return Predictions(**tensors, indices=torch.from_numpy(indices), skipped=skipped)


def _gather(shard: Predictions | None, error: Exception | None) -> list[Predictions]:
    """Every process's shard, on every process. Raises on all of them if one failed."""
    gathered: list[Any] = [(shard, None)]
    if dist.is_available() and dist.is_initialized():
        gathered = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (shard, error and f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, failure) in enumerate(gathered):
        if failure is not None:
            raise SkdError(f"evaluation failed in process {rank}: {failure}")
    return [theirs for theirs, _ in gathered]


def _merge(shards: list[Predictions]) -> Predictions:
    """All shards as one, sorted by index."""
    skipped = dict(sorted(item for shard in shards for item in shard.skipped.items()))
    filled = [shard for shard in shards if len(shard)]
    if not filled:
        hint = f", {len(skipped)} were skipped" if skipped else ""
        raise SkdError(f"nothing to evaluate: the data gave no images{hint}")
    indices = torch.cat([shard.indices for shard in filled])
    order = torch.argsort(indices)
    twice = (indices[order].diff() == 0).nonzero()
    if len(twice):
        raise SkdError(
            f"the image with index {int(indices[order][twice[0]])} was evaluated twice "
            f"({len(twice)} such images); every process needs its own part of the data, with its loader's `indices`"
        )
    merged = {name: torch.cat([getattr(shard, name) for shard in filled])[order] for name in _TENSORS}
    return Predictions(**merged, skipped=skipped)
