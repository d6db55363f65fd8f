"""Random numbers that depend on their use, not on who draws them or when.

FFCV's threads draw crops and flips from generators that can't be seeded, and a stateful generator would have to be
replayed to resume within an epoch. Here every number is a hash of (seed, epoch, position, segment, draw), so a sample's
augmentation is the same for any number of workers and processes, and after a resume.
"""

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
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            # The golden-ratio step keeps (0, 1) and (1, 0) and runs of zeros apart.
            state = _mix(state + _GOLDEN + np.atleast_1d(np.asarray(part, dtype=np.uint64)))
    return state


def uniform(key: NDArray[np.uint64], draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1): ``[n, draws]`` for keys ``[n]``."""
    with np.errstate(over="ignore"):
        counter = key[:, None] + np.arange(1, draws + 1, dtype=np.uint64)[None, :] * _GOLDEN
        bits = _mix(counter)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
