"""Random numbers keyed by what they are for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_plugins.common.rng import keys, uniform

quick = settings(max_examples=60, deadline=None, derandomize=True)
parts = st.integers(0, 2**63)

# If these change, every run's augmentation does: a resumed run would no longer be the uninterrupted one.


def slow_mix(x: int) -> int:
    """SplitMix64's finaliser, from the paper, in Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@quick
@given(st.lists(parts, min_size=1, max_size=5), st.integers(1, 5))
def test_is_the_documented_hash(values: list[int], draws: int) -> None:
    state = 0
    for value in values:
        state = slow_mix((state + 0x9E3779B97F4A7C15 + value) % 2**64)
    assert [int(key) for key in keys(*values)] == [state]
    bits = [slow_mix((state + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(draws)]
    assert uniform(keys(*values), draws)[0].tolist() == [(b >> 11) / 2**53 for b in bits]


def test_is_splitmix64() -> None:
    # The reference sequence for the seed 1234567 (Vigna's splitmix64.c): its first outputs are draws of that "key".
    bits = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert uniform(np.array([1234567], np.uint64), 3)[0].tolist() == [(b >> 11) / 2**53 for b in bits]
