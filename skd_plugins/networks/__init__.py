"""Networks without weights, their classifiers, features and stages; the papers' own are in `papers`.

Importing this registers the papers' networks with timm: ``timm.create_model`` and ``timm.list_models`` have them.
"""

from .papers import densenet_cifar, preact_resnet, resnet

NETWORKS = tuple(sorted((*densenet_cifar.default_cfgs, *preact_resnet.default_cfgs, *resnet.default_cfgs)))

__all__ = ["NETWORKS"]
