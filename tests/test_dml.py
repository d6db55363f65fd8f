"""The peer of `dml`; its equation is in test_numerics, the laws are in test_methods."""

from __future__ import annotations

import torch
from test_methods import make_task


def test_a_peer_starts_with_other_weights_of_the_same_kind() -> None:
    method = make_task("dml").method
    for parameter, other in zip(method.model.parameters(), method.peer.parameters(), strict=True):
        assert torch.equal(parameter.flatten().sort().values, other.flatten().sort().values)
    assert not torch.equal(method.model.conv1[0].weight, method.peer.conv1[0].weight)
    again = make_task("dml").method
    assert torch.equal(again.peer.conv1[0].weight, method.peer.conv1[0].weight), "the seed's"
