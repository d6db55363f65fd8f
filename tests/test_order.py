"""The order of an epoch: its laws, for any number of samples, processes and micro-batches."""

from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from timm.data.distributed_sampler import RepeatAugSampler

from skd_plugins.common.errors import SkdError
from skd_plugins.data.order import Batch, Division, TrainingOrder

quick = settings(max_examples=150, deadline=None, derandomize=True)
Targets = NDArray[np.int64]


def make_order(
    targets: Targets, *, rank: int = 0, world: int = 1, accumulation: int = 1, even: bool = False, **options: Any
) -> TrainingOrder:
    division = Division(rank=rank, world=world, accumulation=accumulation, even=even)
    return TrainingOrder(targets, division=division, **options)


def all_batches(
    targets: Targets, *, world: int = 1, epoch: int = 0, start: int = 0, **options: Any
) -> list[list[Batch]]:
    """Each process's batches."""
    return [list(make_order(targets, rank=rank, world=world, **options).batches(epoch, start)) for rank in range(world)]


@st.composite
def divisions(draw: st.DrawFn) -> dict[str, Any]:
    """Any samples, batch, processes and micro-batches that fit together."""
    world, accumulation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    parts = world * accumulation
    unit = draw(st.sampled_from([1, 2]))
    batch = parts * draw(st.integers(1 if unit == 2 else 2, 9)) * unit
    samples = draw(st.integers(2 * parts, 5 * batch + 3))
    targets = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=samples, max_size=samples))
    how = {"couples": draw(st.booleans())} if unit == 2 else {}
    return {
        "targets": np.array(targets),
        "world": world,
        "accumulation": accumulation,
        "batch_size": batch,
        "even": unit == 2 and not how["couples"],
        "seed": draw(st.integers(0, 3)),
        **how,
    }


@quick
@given(divisions(), st.integers(2, 5), st.integers(0, 5))
def test_repeats_are_timms(division: dict[str, Any], repeats: int, epoch: int) -> None:
    """Each step has the images of timm's RepeatAugSampler, as often as there, and its positions are its own."""
    assume(not division.get("couples"))
    targets, world = division["targets"], division["world"]
    shuffled = make_order(targets, **{k: v for k, v in division.items() if k != "targets"}).anchors(epoch)
    samplers = [
        RepeatAugSampler(targets, world, rank, shuffle=False, num_repeats=repeats, selected_round=0)
        for rank in range(world)
    ]
    timms = shuffled[np.array(list(zip_longest(*samplers, fillvalue=-1))).ravel()[: len(targets)]]
    seen = 0
    for step in steps_of(all_batches(**division, epoch=epoch, repeats=repeats), division["accumulation"]):
        images, places = (np.concatenate([getattr(b, name) for b in step]) for name in ("indices", "positions"))
        assert sorted(places) == list(range(seen, seen + len(images)))
        if len(images) == division["batch_size"]:  # the last two may share what is left
            assert sorted(images) == sorted(timms[seen : seen + len(images)])
        seen += len(images)
    assert seen == len(targets)
    order = make_order(targets, **{k: v for k, v in division.items() if k != "targets"}, repeats=repeats)
    assert sorted(order.anchors(epoch)) == sorted(timms)
    assert np.bincount(timms).tolist().count(repeats) == len(targets) // repeats


def steps_of(processes: list[list[Batch]], accumulation: int) -> list[list[Batch]]:
    """The batches of each step, of all processes."""
    count = len(processes[0]) // accumulation
    return [[b for p in processes for b in p[k * accumulation : (k + 1) * accumulation]] for k in range(count)]


@quick
@given(st.integers(2, 4), st.integers(2, 6), st.integers(1, 8), st.integers(0, 3))
def test_different_processes_get_the_copies(repeats: int, world: int, images: int, seed: int) -> None:
    """As from timm's sampler: with at least as many processes as copies no batch has an image twice."""
    assume(world >= repeats)
    size = repeats * world * images
    batches = all_batches(np.zeros(3 * size, np.int64), world=world, batch_size=size, seed=seed, repeats=repeats)
    for process in batches:
        for batch in process:
            assert len(set(batch.indices)) == len(batch.indices) == repeats * images


def test_repeated_pairs_are_drawn_anew() -> None:
    targets = np.repeat(np.arange(4), 50)
    order = make_order(targets, batch_size=20, repeats=4, segments=("anchor", "pair"))
    anchors, pairs = order.anchors(0), order.pairs(0)
    assert (targets[anchors] == targets[pairs]).all()
    copies = {image: set(pairs[anchors == image]) for image in set(anchors)}
    assert len(copies) == 50
    assert np.mean([len(different) for different in copies.values()]) > 3


@quick
@given(divisions(), st.integers(0, 5))
def test_processes_together_are_the_single_process(division: dict[str, Any], epoch: int) -> None:
    """Each anchor once; by micro-batches, in rank order, a step is the contiguous slice that one process takes."""
    accumulation = division["accumulation"]
    order = make_order(division["targets"], **{k: v for k, v in division.items() if k not in ("world", "targets")})
    anchors = make_order(rank=division["world"] - 1, **division).anchors(epoch)
    assert sorted(anchors) == list(range(len(division["targets"])))
    if not division.get("couples"):  # couples have to know the division
        assert (anchors == order.anchors(epoch)).all()
    batches = all_batches(**division, epoch=epoch)
    done = 0
    for step in range(len(batches[0]) // accumulation):
        for micro in range(accumulation):
            for process in batches:
                batch = process[step * accumulation + micro]
                size = len(batch.indices)
                assert (batch.positions == np.arange(done, done + size)).all()
                assert (batch.indices == anchors[done : done + size]).all()
                done += size
    assert done == len(anchors)


@quick
@given(divisions())
def test_no_process_gets_fewer_than_two_anchors(division: dict[str, Any]) -> None:
    batches, batch_size = all_batches(**division), division["batch_size"]
    samples, accumulation = len(division["targets"]), division["accumulation"]
    parts = division["world"] * accumulation
    unit = 2 if division["even"] or division.get("couples") else 1
    sizes = np.array([[len(batch.indices) for batch in process] for process in batches])  # [world, steps * micro]
    assert sizes.min() >= 2
    steps = sizes.reshape(division["world"], -1, accumulation).sum(axis=(0, 2))
    assert steps.sum() == samples
    assert all(size == batch_size for size in steps[:-2])
    full, left = divmod(samples, batch_size)
    least = max(2 * parts, batch_size // 2 // unit * unit)
    if left == 0 or left >= least or not full:  # the usual case: only the last step is smaller
        assert steps.tolist() == [batch_size] * full + [left] * bool(left)
    elif batch_size + left >= 2 * least:  # the last two share
        assert len(steps) == full + 1
        assert abs(steps[-1] - steps[-2]) <= 2 * unit
    else:  # too few for two steps
        assert steps.tolist() == [batch_size] * (full - 1) + [batch_size + left]
    if unit == 2:  # only the very last batch may be odd
        assert (sizes.T.ravel()[:-1] % 2 == 0).all()
    # and nobody has much more than anybody else in the same step
    per_step = sizes.T.reshape(len(steps), -1)
    assert (per_step.max(axis=1) - per_step.min(axis=1) <= unit + 1).all()


@quick
@given(divisions(), st.data())
def test_weights_make_means_of_means_the_mean(division: dict[str, Any], data: st.DataObject) -> None:
    """Averaged over processes (DDP) and micro-batches (gradient accumulation) the loss is the step's mean."""
    samples = len(division["targets"])
    losses = np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=samples)
    orders = [make_order(rank=rank, **division) for rank in range(division["world"])]
    start = data.draw(st.integers(0, orders[0].steps - 1))
    accumulation = division["accumulation"]
    weights = [list(order.weights(start)) for order in orders]
    batches = [list(order.batches(1, start)) for order in orders]
    assert {len(w) for w in weights} == {(orders[0].steps - start) * accumulation}
    for step in range(orders[0].steps - start):
        places = range(step * accumulation, (step + 1) * accumulation)
        parts = [(w[i], losses[b[i].indices]) for w, b in zip(weights, batches, strict=True) for i in places]
        everything = np.concatenate([values for _, values in parts])
        np.testing.assert_allclose(np.mean([w * values.mean() for w, values in parts]), everything.mean(), atol=1e-12)
        assert orders[0].equal(start + step) == (len({len(values) for _, values in parts}) == 1)


@quick
@given(divisions(), st.data())
def test_a_later_start_is_the_tail(division: dict[str, Any], data: st.DataObject) -> None:
    division["segments"] = ("anchor", "pair")
    steps = make_order(**division).steps
    start = data.draw(st.integers(0, steps))
    whole, tail = all_batches(**division, epoch=2), all_batches(**division, epoch=2, start=start)
    for process, its_tail in zip(whole, tail, strict=True):
        expected = process[start * division["accumulation"] :]
        assert len(its_tail) == len(expected)
        for one, other in zip(its_tail, expected, strict=True):
            assert (one.indices == other.indices).all()
            assert (one.positions == other.positions).all()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    """Whatever the batch size: a run may be continued with another number of micro-batches."""
    targets = np.arange(500) % 7
    orders = {
        (seed, epoch): tuple(make_order(targets, batch_size=10, seed=seed).anchors(epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    assert orders[2, 3] == tuple(make_order(targets, batch_size=50, seed=2).anchors(3))


def test_known_order() -> None:
    """If this changes, every run's order does, and a resumed run is no longer the uninterrupted one."""
    order = make_order(np.arange(12) % 3, segments=("anchor", "pair"), batch_size=6, seed=1)
    assert [batch.indices.tolist() for batch in order.batches(2)] == [
        [6, 3, 11, 1, 2, 8, 6, 3, 11, 7, 5, 11],
        [7, 4, 0, 9, 10, 5, 1, 4, 0, 0, 7, 8],
    ]


# ------------------------------------------------------------------------------------------------------------- pairs


@quick
@given(divisions())
def test_pairs_are_of_the_anchors_class(division: dict[str, Any]) -> None:
    targets = division["targets"]
    for process in all_batches(**division, segments=("anchor", "pair", "clean", "view")):
        for batch in process:
            anchors, pairs, clean, views = np.split(batch.indices, 4)
            assert (targets[anchors] == targets[pairs]).all()
            assert (anchors == clean).all()
            assert (anchors == views).all()
            assert len(batch.positions) == len(anchors)


def test_pairs_are_uniform_in_the_class_and_include_the_anchor() -> None:
    targets = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2])
    order = make_order(targets, batch_size=9, segments=("anchor", "pair"))
    counts = np.zeros((9, 9), int)
    for epoch in range(5000):
        np.add.at(counts, (order.anchors(epoch), order.pairs(epoch)), 1)
    assert (counts[targets[:, None] != targets[None, :]] == 0).all()
    assert counts[5, 5] == 5000  # alone in its class: its own pair
    for label in (0, 2):
        members = np.flatnonzero(targets == label)
        assert chisquare(counts[np.ix_(members, members)].ravel()).pvalue > 1e-3  # every (anchor, pair) alike
    # Draws within an epoch are with replacement: of five anchors, the five pairs differ in 5!/5^5 of the epochs only.
    distinct = [len(set(order.pairs(e)[targets[order.anchors(e)] == 0].tolist())) == 5 for e in range(2000)]
    assert abs(np.mean(distinct) - 120 / 3125) < 0.02


# ------------------------------------------------------------------------------------------------------------ couples


def lonely(targets: Targets, batches: list[list[Batch]]) -> list[int]:
    """Samples that have no other of their class in their batch, though the class has others."""
    counts = np.bincount(targets)
    found: list[int] = []
    for process in batches:
        for batch in process:
            here = np.bincount(targets[batch.indices], minlength=len(counts))
            found += [int(i) for i in batch.indices if here[targets[i]] == 1 and counts[targets[i]] > 1]
    return found


@quick
@given(divisions(), st.integers(0, 3))
def test_couples_have_company(division: dict[str, Any], epoch: int) -> None:
    """Only a third of a class with an odd number of samples may be alone, and only if no batch had room for triples."""
    assume("couples" in division)
    division["couples"] = True
    targets = division["targets"]
    batches = all_batches(**division, epoch=epoch)
    alone = lonely(targets, batches)
    counts = np.bincount(targets)
    assert all(counts[targets[i]] % 2 == 1 for i in alone)
    assert len({int(targets[i]) for i in alone}) == len(alone)  # one a class
    # Room: two triples take six places of a batch, and the last places are taken by those without a partner.
    triples = int(((counts % 2 == 1) & (counts >= 3)).sum())
    singles = int((counts == 1).sum())
    sizes = [len(process[step].indices) for step in range(len(batches[0])) for process in batches]
    room, taken = 0, 0
    for size in sizes:
        usable = min(size, len(targets) - singles - 3 - 2 * triples - taken)
        room += 2 * max(usable // 6, 0)
        taken += size
    # a triple that is left over stays together at the end, unless the last batch has two places
    assert len(alone) <= max(triples - room, 0) + (1 if sizes[-1] == 2 or (triples - room) % 2 else 0) * (triples % 2)


def test_couples_with_many_odd_classes() -> None:
    """Five images a class: two triples in every six places, or most images would have no partner."""
    targets = np.repeat(np.arange(100), 5)
    for epoch in range(3):
        assert lonely(targets, all_batches(targets, batch_size=100, couples=True, epoch=epoch)) == []
        assert lonely(targets, all_batches(targets, batch_size=120, world=2, couples=True, epoch=epoch)) == []


def test_couples_vary() -> None:
    """Partners change from epoch to epoch, and every other sample of the class gets its turn, equally."""
    targets = np.arange(40) % 5
    counts = np.zeros((40, 40), int)
    order = make_order(targets, batch_size=10, couples=True)
    for epoch in range(3000):
        pairs = order.anchors(epoch).reshape(-1, 2)
        counts[pairs[:, 0], pairs[:, 1]] += 1
        counts[pairs[:, 1], pairs[:, 0]] += 1
    same = (targets[:, None] == targets[None, :]) & ~np.eye(40, dtype=bool)
    assert (counts[~same] == 0).all()
    upper = counts[np.triu(same)]
    assert chisquare(upper).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------------- errors

ERRORS = [
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": -4}, "batch_size=-4"),
    ({"batch_size": 1}, "batch_size=1 is too small"),
    ({"batch_size": 5, "world": 2}, "batch_size=5 does not divide into 2 process"),
    ({"batch_size": 4, "world": 4}, "batch_size=4 is too small for 4 process"),
    ({"batch_size": 12, "world": 2, "accumulation": 4}, "4 micro-batch"),
    ({"batch_size": 5, "couples": True}, "of an even number of images"),
    ({"batch_size": 6, "even": True, "world": 2}, "of an even number of images"),
    ({"batch_size": 4, "segments": ("pair", "anchor")}, "segments start with 'anchor'"),
    ({"batch_size": 4, "segments": ()}, "segments start with 'anchor'"),
    ({"batch_size": 4, "segments": ("anchor", "other")}, "'other'"),
    ({"batch_size": 4, "couples": True, "repeats": 3}, r"augmentation \(3\) would make an image its own partner"),
    ({"batch_size": 64, "world": 16}, "20 training images are too few for 16 process"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS, ids=lambda value: str(value)[:50])
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        make_order(np.arange(20) % 4, **options)


@pytest.mark.parametrize("classes", [1, 1000, 1 << 16, (1 << 16) + 1])
def test_classes_are_sorted_stably(classes: int) -> None:
    """Also where their numbers do not fit into the 16 bits that are sorted in linear time."""
    labels = np.random.default_rng(0).integers(0, classes, 5000)
    labels[::7] = classes - 1
    expected = sorted(range(len(labels)), key=lambda index: labels[index])
    assert make_order(labels, batch_size=8).by_class.tolist() == expected
