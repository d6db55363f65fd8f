"""The papers' networks that neither timm nor torchvision has, registered with timm.

After ``import skd_plugins.networks`` they are in ``timm.create_model`` and ``timm.list_models`` like timm's own.
"""

from .papers import densenet_cifar, preact_resnet, resnet

NETWORKS = tuple(sorted((*densenet_cifar.default_cfgs, *preact_resnet.default_cfgs, *resnet.default_cfgs)))

__all__ = ["NETWORKS"]
