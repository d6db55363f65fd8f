"""The features before a network's classifier, captured during an ordinary forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from .create import classifiers_of


def forward_with_features(model: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features ``[B, D]`` and logits ``[B, C]`` of one pass, both with gradient.

    A hook on the classifier's input takes the features, so the logits are those of the network's own forward.
    (timm's ``forward_head(pre_logits=True)`` leaves out the last norm of some networks.) The features are what the
    classifier sees: after pooling and all norms, and of several heads one after another, see `classifiers_of`.
    """
    return tap_classifier(model).run(model, input)


@contextmanager
def extra_rows(model: nn.Module, rows: Callable[[Tensor], Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Lets the next `forward_with_features` inside the block put further rows through the classifier, in one call.

    `rows` makes them ``[R, D]`` from the features ``[B, D]``; the list that the block gets receives their logits as one
    tensor. The pass still returns its own features and logits. A block without such a pass is an error. With several
    heads, `rows` is called for the features of each, once for those that share them.
    """
    tap = tap_classifier(model)
    extra: list[Tensor] = []
    tap.rows, tap.extra = rows, extra
    try:
        yield extra
    finally:
        tap.rows, tap.extra = None, []
    if not extra:
        raise SkdError(
            "the method's forward made no pass that gives features, which sd_dropout samples; call anchor_forward in it"
        )


class _ClassifierTap:
    """A hook on the inputs of a network's `heads` classifiers that acts only during `run`.

    It stays on the modules: adding and removing it in every step would make torch.compile recompile.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.expanded: list[tuple[Tensor, Tensor]] = []  # an input, and what the classifier gets instead
        self.seen: list[Tensor] | None = None  # the classifier's inputs during `run`
        self.rows: Callable[[Tensor], Sequence[Tensor]] | None = None
        self.extra: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.seen is None:
            return None
        input = args[0]
        shape = input.shape
        # A convolution gets [B, D, 1, 1].
        features = input.flatten(1) if input.ndim == 4 and shape[2:] == (1, 1) else input
        self.seen.append(features)
        if self.rows is None or features.ndim != 2:
            return None
        for known, more in self.expanded:  # heads that share their features share the dropout
            if known is input:
                return (more,)
        self.expanded.append((input, torch.cat([features, *self.rows(features)]).reshape(-1, *shape[1:])))
        return (self.expanded[-1][1],)

    def run(self, model: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
        expanded = self.rows is not None
        seen = self.seen = []
        try:
            logits = model(input)
        except RuntimeError as error:
            if not expanded or not seen or isinstance(error, torch.OutOfMemoryError):
                raise
            raise SkdError(
                f"{type(model).__name__} adds something else to what its classifier gives, so further rows can't be "
                f"put through it, as sd_dropout and dropout do ({error}); use another network"
            ) from error
        finally:
            self.seen, self.rows, self.expanded = None, None, []
        if len(seen) != self.heads or not isinstance(logits, Tensor):
            raise SkdError(
                f"{type(model).__name__} calls its {self.heads} classifier(s) {len(seen)} times in a pass and returns "
                f"{type(logits).__name__}, not once each and logits; use a network with one linear classifier, for one "
                "of Hugging Face's a module around it whose forward returns its .logits, and for a distilled one of "
                "timm's set_distilled_training(False)"
            )
        for part in seen:
            if part.ndim != 2 or len(part) != len(input):
                raise SkdError(
                    f"{type(model).__name__} gives its classifier features of shape {list(part.shape)}, "
                    f"not [{len(input)}, D]; methods that use features need one vector per image"
                )
        features = seen[0] if self.heads == 1 else torch.cat(seen, dim=1)
        if expanded:
            self.extra.append(logits[len(features) :])
            logits = logits[: len(features)]
        return features, logits


def tap_classifier(model: nn.Module) -> _ClassifierTap:
    """The hook that `forward_with_features` uses; sets it if it is not there yet."""
    heads = classifiers_of(model)
    for hook in heads[0]._forward_pre_hooks.values():
        if isinstance(hook, _ClassifierTap):
            return hook
    tap = _ClassifierTap(len(heads))
    for head in heads:
        head.register_forward_pre_hook(tap)
    return tap
