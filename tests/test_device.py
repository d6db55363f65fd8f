"""What a GPU would say of every method, without one: no copy between CPU and CUDA, no waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_methods import BATCH, CLASSES, SIZE, VARIANTS, make_task
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skd_plugins.methods.task import MethodTask


class OnlyCuda(TorchDispatchMode):
    """Refuses every operation that takes or makes a tensor elsewhere.

    FakeTensorMode refuses what needs a value (``item``, a mask as an index), and mixtures that a GPU refuses. It lets
    pass what works but makes the host wait: copies, CPU indices, linear algebra that asks for singular matrices.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._linalg_check_errors.default, "waits for the device; take the _ex function"
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert devices <= {"cuda"}, f"{func} on {devices}"
        return result


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """bfloat16 as under ``torch.autocast("cuda")``, which turns itself off where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def two_steps(task: MethodTask) -> dict[str, Tensor]:
    """Steps without values; the second is the one that repeats, as the first waits for the device to compare labels."""
    task.method._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
    images = BATCH * len(task.method.segments)
    input = torch.empty(images, 3, SIZE, SIZE, device="cuda")
    target = torch.empty(images, dtype=torch.int64, device="cuda")
    for part in task.method.modules():
        part._begun = True
    task(input, target)
    return task(input, target)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_stays_on_the_gpu(variant: str) -> None:
    task = make_task(variant)
    with FakeTensorMode(allow_non_fake_inputs=False), OnlyCuda(), cuda_autocast():
        result = two_steps(task)
    assert {value.device.type for value in result.values()} == {"cuda"}
    assert (result["loss"].dtype, result["loss"].shape) == (torch.float32, ())
    assert (result["output"].dtype, result["output"].shape) == (torch.bfloat16, (BATCH, CLASSES))
