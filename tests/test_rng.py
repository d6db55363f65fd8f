"""Random numbers keyed by what they are for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

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


@quick
@given(st.lists(st.tuples(parts, parts), min_size=1, max_size=20), st.integers(0, 19))
def test_does_not_depend_on_the_rest_of_the_batch(pairs: list[tuple[int, int]], which: int) -> None:
    first, second = (np.array(values, dtype=np.uint64) for values in zip(*pairs, strict=True))
    which %= len(pairs)
    together = uniform(keys(7, first, second), 4)
    np.testing.assert_array_equal(together[which], uniform(keys(7, *pairs[which]), 4)[0])
    # nor on how many draws are taken
    np.testing.assert_array_equal(together[:, :2], uniform(keys(7, first, second), 2))


def test_a_million_neighbouring_parts_have_different_keys() -> None:
    seed, epoch, position = np.arange(4)[:, None, None, None], np.arange(10)[:, None, None], np.arange(10_000)[:, None]
    grid = keys(seed, epoch, position, np.arange(3))
    assert grid.shape == (4, 10, 10_000, 3)
    assert len(np.unique(grid)) == grid.size
    # Neither do numbers of parts collide: (0,), (0, 0), (0, 0, 0) ...
    assert len({int(keys(*[0] * count)[0]) for count in range(1, 50)}) == 49


@pytest.mark.parametrize("varied", ["seed", "epoch", "position", "segment", "draw"])
def test_uniform_along_every_part(varied: str) -> None:
    """The n-th number is uniform and unrelated to the one before, whichever part counts up."""
    count = 40_000
    fixed = {"seed": 3, "epoch": 1, "position": 11, "segment": 0}
    if varied == "draw":
        numbers = uniform(keys(*fixed.values()), count)[0]
    else:
        numbers = uniform(keys(*(fixed | {varied: np.arange(count)}).values()), 1)[:, 0]
    assert 0 <= numbers.min() < numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 1e-3
    # pairs of neighbours fill the unit square evenly
    square, _, _ = np.histogram2d(numbers[:-1:2], numbers[1::2], bins=10, range=[[0, 1], [0, 1]])
    assert chisquare(square.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / np.sqrt(count)


def test_the_largest_number_is_below_one() -> None:
    # floor(u * n) must not reach n: not even for the largest u that there is
    largest = (2**53 - 1) * 2.0**-53
    sides = np.arange(1, 70_000)
    assert (np.floor(largest * sides) == sides - 1).all()
