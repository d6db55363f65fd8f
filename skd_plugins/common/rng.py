"""Random numbers that depend on what they are for, not on who draws them or when.

FFCV draws crops and flips from generators of its threads that nobody can seed, and a stateful generator would have to
be replayed to resume in the middle of an epoch. Here every number is a hash of (seed, epoch, position, segment, draw),
so that a sample's augmentation is the same for any number of workers and processes and wherever a run was resumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): a bijection in which every input bit flips half the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(*parts: ArrayLike) -> NDArray[np.uint64]:
    """One 64-bit key for each broadcast combination of the (non-negative integer) parts."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            # The golden-ratio step keeps (0, 1) and (1, 0) and runs of zeros apart.
            state = _mix(np.atleast_1d(state + _GOLDEN + np.asarray(part, dtype=np.uint64)))  # type: ignore[assignment]
    return np.atleast_1d(state)


def uniform(key: NDArray[np.uint64], draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1): ``[n, draws]`` for keys ``[n]``."""
    with np.errstate(over="ignore"):
        counter = key[:, None] + np.arange(1, draws + 1, dtype=np.uint64)[None, :] * _GOLDEN
        bits = _mix(counter)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
