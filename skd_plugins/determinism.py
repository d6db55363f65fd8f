"""The switch for bit-equal repetitions on a GPU."""

from __future__ import annotations

import os

import torch


def use_deterministic_algorithms() -> None:
    """Makes torch, cuDNN and cuBLAS use algorithms that repeat their results bit by bit, for the rest of the process.

    An operation without such an algorithm raises an error then. It costs speed. What is not covered: another kind of
    GPU, number of processes, or version of these libraries.
    """
    # Read when cuBLAS starts; without it torch refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
