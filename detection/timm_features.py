"""timm's networks beyond the ResNets as detectron2 backbones: ConvNeXt, EfficientNet, RegNet, DenseNet and others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from timm.layers import convert_sync_batchnorm
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from skd_plugins.common.errors import SkdError

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = dict(zip(STAGES, (4, 8, 16, 32), strict=True))
NORMS = ("FrozenBN", "BN", "SyncBN")


class TimmFeatures(Backbone):  # type: ignore[misc]  # detectron2 has no types
    """A network of timm without its classifier; ``res2`` to ``res5`` are its last features of stride 4, 8, 16 and 32.

    They are those of timm's ``features_only=True``, which renames the weights; here the weights are loaded into the
    whole network before, under their own names. What comes after the last feature is left out.

    Args:
        norm: as for `TimmResNet`; a network without BatchNorm stays as it is.
        freeze_at: 1 is all before the first stage, 2 all up to the end of ``res2``, ...; their BatchNorm is frozen.
        out_features: any of ``res2`` to ``res5``.
        checkpoint_activations: timm's own, where the network has it.
    """

    def __init__(
        self,
        network: Any,
        *,
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        out_features: Sequence[str] = STAGES,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if not all(hasattr(network, name) for name in ("forward_intermediates", "prune_intermediate_layers")):
            raise SkdError(
                f"{type(network).__name__} gives no features of its stages, so it can't be a backbone; take a ResNet "
                "of timm or torchvision, or another network of timm, for example convnext_tiny"
            )
        check_stages(out_features, freeze_at)
        info = list(network.feature_info)
        last = {stride: number for number, stride in enumerate(one["reduction"] for one in info)}
        strides = {name: STRIDES[name] for name in STAGES if name in out_features}
        if lacking := [name for name, stride in strides.items() if stride not in last]:
            raise SkdError(f"{type(network).__name__} has no feature of stride {strides[lacking[0]]} for {lacking[0]}")
        self.indices = {name: last[stride] for name, stride in strides.items()}
        ends = [info[last[STRIDES[name]]]["module"] if STRIDES[name] in last else "" for name in STAGES]
        network.prune_intermediate_layers([*self.indices.values()], prune_norm=True, prune_head=True)
        if checkpoint_activations:
            network.set_grad_checkpointing()
        self.network = network
        self._out_features = list(strides)
        self._out_feature_strides = strides
        self._out_feature_channels = channels_of(self, strides, type(network).__name__)
        if freeze_at:
            self._freeze(ends[0].partition(".")[0] if freeze_at == 1 else ends[freeze_at - 2], whole=freeze_at > 1)
        self.network = with_norm(network, norm)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to it, so that every stage halves an even side."""
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features ``[B, C, H / stride, W / stride]`` by name, of normalised images ``[B, 3, H, W]``."""
        places = [*self.indices.values()]
        found = self.network.forward_intermediates(x, indices=places, intermediates_only=True)
        return dict(zip(self.indices, found, strict=True))

    def _freeze(self, module: str, *, whole: bool) -> None:
        """Freezes all parameters up to a module's, in the order of the network."""
        names = [name for name, _ in self.network.named_parameters()]
        inside = [number for number, name in enumerate(names) if name.startswith(f"{module}.")]
        if not inside:  # the module of the last stage may have been left out, with nothing behind it
            inside = [len(names) - 1]
        frozen = set(names[: inside[-1] + 1 if whole else inside[0]])
        for name, parameter in self.network.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        for name, part in list(self.network.named_modules()):
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in frozen:
                self.network.set_submodule(name, freeze_batch_norm_2d(part))


@torch.no_grad()
def channels_of(backbone: nn.Module, strides: Mapping[str, int], name: str) -> dict[str, int]:
    """Channels of the features, measured on an image of zeros, where they have to have these strides."""
    backbone.eval()  # BatchNorm's statistics stay as they are
    side = 2 * max(strides.values())
    try:
        features = backbone(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError) as error:
        raise SkdError(f"{name} does not take images of {side} pixels: {error}") from None
    backbone.train()
    found = {stage: side // value.shape[2] for stage, value in features.items()}
    if found != strides:
        raise SkdError(f"{name}'s features have strides {found}; a detection backbone has {dict(strides)}")
    return {stage: value.shape[1] for stage, value in features.items()}


def check_stages(out_features: Sequence[str], freeze_at: int) -> None:
    """Raises `SkdError` for stages that no network has."""
    if not out_features or any(name not in STAGES for name in out_features):
        raise SkdError(f"MODEL.TIMM.OUT_FEATURES should be some of {', '.join(STAGES)}, got {list(out_features)}")
    if not 0 <= freeze_at <= 5:
        raise SkdError(f"MODEL.BACKBONE.FREEZE_AT should be 0 to 5, got {freeze_at}")


def with_norm(part: nn.Module, norm: str) -> nn.Module:
    """The part of a network with the BatchNorm that ``MODEL.TIMM.NORM`` names."""
    if norm not in NORMS:
        raise SkdError(f"MODEL.TIMM.NORM should be one of {', '.join(NORMS)}, got {norm!r}")
    if norm == "BN":
        return part
    kinds = {type(layer) for layer in part.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    if norm == "SyncBN":
        synced: nn.Module = convert_sync_batchnorm(part)
        return synced
    if kinds <= {nn.BatchNorm2d}:
        frozen: nn.Module = FrozenBatchNorm2d.convert_frozen_batchnorm(part)
    else:  # timm's BatchNormAct2d, whose activation detectron2 would lose
        frozen = freeze_batch_norm_2d(part)
    return frozen
