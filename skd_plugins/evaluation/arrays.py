"""Inputs of the metrics: numpy arrays or tensors, checked in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "NDArray[Any] | Tensor"


def to_numpy(values: Array) -> NDArray[Any]:
    """The values as a numpy array; bfloat16 and float16 become float32."""
    if isinstance(values, np.ndarray):
        return values
    tensor = values.detach().cpu()
    return np.asarray(tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor)


def check_rows(
    rows: Array, targets: Array, *, what: str, indices: Array | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Checks that each sample has one finite row and one class index, and returns both as numpy arrays.

    Error messages call the rows `what` and name samples by `indices`, or else by their positions.
    """
    values, labels = to_numpy(rows), to_numpy(targets)
    if values.ndim != 2 or labels.ndim != 1 or len(values) != len(labels):
        raise SkdError(f"{what} must be [N, D] and targets [N], got {list(values.shape)} and {list(labels.shape)}")
    if not len(values) or not values.shape[1]:
        raise SkdError(f"nothing to evaluate: {what} have shape {list(values.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise SkdError(f"targets must be class indices, got {labels.dtype}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        name = first if indices is None else int(to_numpy(indices)[first])
        raise SkdError(
            f"{what} of sample {name} are not finite ({int((~finite).sum())} of {len(values)} samples are not); "
            "the model diverged or overflowed in half precision"
        )
    return values, labels.astype(np.int64, copy=False)
