"""Which samples a step gets: one order for all segments, processes and micro-batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError

Indices = NDArray[np.int64]
ROLES = ("anchor", "pair", "view", "clean")


@dataclass(frozen=True)
class Batch:
    """One process's share of a step, or of a micro-batch under gradient accumulation."""

    indices: Indices  # of the data set [S * b], the segments one after another
    positions: Indices  # each anchor's position in the epoch's order [b]


def rows_of(batch: Batch) -> tuple[Indices, Indices]:
    """The anchor position and the segment number of each of a batch's images."""
    segments, anchors = np.divmod(np.arange(len(batch.indices)), len(batch.positions))
    return batch.positions[anchors], segments


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a step's anchors are divided over processes and micro-batches."""

    rank: int = 0  # this process
    world: int = 1  # number of processes
    accumulation: int = 1  # micro-batches a step
    even: bool = False  # give every process an even number of anchors wherever possible, as timm's mixup needs

    @property
    def parts(self) -> int:
        """Parts that a step is divided into."""
        return self.world * self.accumulation

    def __str__(self) -> str:
        return f"{self.world} process(es) x {self.accumulation} micro-batch(es)"


UNDIVIDED = Division()


class TrainingOrder:
    """The order of an epoch: every anchor once, pairs drawn from the anchor's class.

    The order is a pure function of (seed, epoch), so nothing has to be saved or replayed to resume. Step k takes the
    anchors ``[k * batch_size, (k + 1) * batch_size)`` of the epoch's shuffle, for any number of processes. (Only with
    `couples` does the shuffle depend on the division.) The last step takes what is left. If that is less than half a
    batch, the last two steps share their anchors evenly. If some process would still get fewer than two anchors, which
    BatchNorm can't train on, the two become one step larger than `batch_size`.

    Args:
        targets: each sample's class ``[N]``.
        segments: roles of the batch's parts; the first is ``anchor``.
        batch_size: anchors a step, over all processes and micro-batches.
        couples: every class in a process's batch appears there at least twice, for CS-KD with ``pairing="batch"``. The
            only sample of a class has no partner.
        drop_last: leave out an incomplete last batch, as timm's training loaders do.
        repeats: repeated augmentation, as timm's RepeatAugSampler: an epoch keeps its length, but takes the first
            1/`repeats` of the shuffle, each image `repeats` times one after another. A step's copies of an image stand
            as far apart as they can, so that different processes get them, as timm's do.
    """

    def __init__(
        self,
        targets: Indices,
        *,
        segments: Sequence[str] = ("anchor",),
        batch_size: int,
        seed: int = 0,
        couples: bool = False,
        division: Division = UNDIVIDED,
        drop_last: bool = False,
        repeats: int = 1,
    ) -> None:
        parts = division.parts
        if not segments or segments[0] != "anchor" or not set(segments) <= set(ROLES):
            raise SkdError(f"segments start with 'anchor' and are of {ROLES}, got {tuple(segments)}")
        unit = 2 if couples or division.even else 1
        if batch_size % (unit * parts) or batch_size < 1:
            raise SkdError(
                f"batch_size={batch_size} does not divide into {division}"
                + (" of an even number of images" if unit == 2 else "")
            )
        if batch_size < 2 * parts:
            raise SkdError(
                f"batch_size={batch_size} is too small for {division}, which need two images each (BatchNorm can't "
                "train on one)"
            )
        if repeats < 1:
            raise SkdError(f"repeated augmentation should be at least 1, got {repeats}")
        if couples and repeats > 1:
            raise SkdError(
                f"repeated augmentation ({repeats}) would make an image its own partner, but this method needs two "
                "images of each class in a batch; leave one of them out"
            )
        if len(targets) < 2 * parts:
            raise SkdError(f"{len(targets)} training images are too few for {division}, which need two each")
        self.targets = np.asarray(targets, dtype=np.int64)
        self.segments = tuple(segments)
        self.batch_size, self.seed, self.couples, self.division = batch_size, seed, couples, division
        self.repeats = repeats
        self.counts = np.bincount(self.targets)
        self.starts = np.cumsum(self.counts) - self.counts
        self._labels = _narrow(self.targets, len(self.counts))  # a small type, since every look-up misses the cache
        self.by_class = np.argsort(self._labels, kind="stable")
        least = max(2 * parts, batch_size // 2 // unit * unit)
        sizes = _step_sizes(len(targets), batch_size, least, unit, drop_last)
        self._shares = [_split(size, parts, unit) for size in sizes]
        self._step_ends = np.cumsum([sum(share) for share in self._shares])

    def __len__(self) -> int:
        """This process's batches in an epoch."""
        return self.steps * self.division.accumulation

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return len(self._shares)

    def anchors(self, epoch: int) -> Indices:
        """The samples in the epoch's order ``[N]``."""
        generator = self._generator(epoch, 0)
        if self.couples:
            return self._couples_first(generator)
        shuffled: Indices = generator.permutation(len(self.targets))
        if self.repeats > 1:
            places = np.arange(len(shuffled))
            # Within each step the first copies, then the second ones, ...
            places = places[np.lexsort((places % self.repeats, places // self.batch_size))]
            shuffled = shuffled[places // self.repeats]
        return shuffled

    def pairs(self, epoch: int) -> Indices:
        """A sample of the anchor's class for each position of the order ``[N]``, uniform and with replacement.

        Source: alinlab/cs-kd, datasets.py: PairBatchSampler (the anchor itself may be drawn).
        """
        return self._draw_pairs(self.anchors(epoch), epoch)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This process's batches, `accumulation` of them a step, from `start_step` on."""
        anchors = self.anchors(epoch)
        roles = {"anchor": anchors, "view": anchors, "clean": anchors}
        if "pair" in self.segments:
            roles["pair"] = self._draw_pairs(anchors, epoch)
        for step in range(start_step, self.steps):
            share = self._shares[step]
            ends = self._step_ends[step] - sum(share) + np.cumsum(share)
            for part in self._parts():
                place = slice(ends[part] - share[part], ends[part])
                positions = np.arange(place.start, place.stop)
                yield Batch(np.concatenate([roles[role][place] for role in self.segments]), positions)

    def weights(self, start_step: int = 0) -> Iterator[float]:
        """Factor of each batch's mean loss that makes the average over processes and micro-batches the step's mean."""
        for share in self._shares[start_step:]:
            for part in self._parts():
                yield share[part] * len(share) / sum(share)

    def equal(self, step: int) -> bool:
        """Whether all processes and micro-batches have the same number of a step's anchors."""
        return len(set(self._shares[step])) == 1

    def _parts(self) -> range:
        """This process's parts of a step.

        Ranks are neighbours within a micro-batch, so gathering batches in rank order restores the global order.
        """
        return range(self.division.rank, self.division.parts, self.division.world)

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, stream])))

    def _draw_pairs(self, anchors: Indices, epoch: int) -> Indices:
        classes = self._labels[anchors]
        offset = (self._generator(epoch, 1).random(len(anchors)) * self.counts[classes]).astype(np.int64)
        pairs: Indices = self.by_class[self.starts[classes] + offset]
        return pairs

    def _couples_first(self, generator: np.random.Generator) -> Indices:
        """A shuffle whose samples 2i and 2i + 1 of a process's batch are of one class.

        A class with an odd number of samples has one triple. Two triples fill six places of a batch, so a batch of
        fewer than six has no room for them. Samples that are alone in their class come last, and so does a triple
        without a second one.
        """
        shuffled = generator.permutation(len(self.targets))
        shuffled = shuffled[np.argsort(self._labels[shuffled], kind="stable")]  # class by class now
        alone = self.starts[self.counts == 1]
        in_triple = self.starts[(self.counts % 2 == 1) & (self.counts >= 3)][:, None] + np.arange(3)
        in_pair = np.ones(len(shuffled), dtype=bool)
        in_pair[alone], in_pair[in_triple] = False, False
        alone, triples, pairs = shuffled[alone], shuffled[in_triple], shuffled[in_pair].reshape(-1, 2)
        triples = triples[generator.permutation(len(triples))]

        odd = len(triples) % 2
        sizes = np.concatenate(self._shares)
        sixes = sizes // 6  # how often a batch has room for two triples: at every sixth place
        nth = np.arange(sixes.sum()) - np.repeat(np.cumsum(sixes) - sixes, sixes)
        begins = np.repeat(np.cumsum(sizes) - sizes, sixes) + 6 * nth
        twice = min(len(triples) // 2, len(begins))
        while True:  # two triples without room move to the last places, which leaves less room
            last = len(alone) + 3 * odd + (len(triples) - odd - 2 * twice)
            room = begins[begins + 6 <= len(shuffled) - last]
            if twice <= len(room):
                break
            twice = len(room)
        at_start = generator.permutation(room)[:twice]
        # A triple without room is broken up: two stay together, the third joins those without a partner.
        spare = triples[2 * twice : len(triples) - odd]
        pairs = np.concatenate([pairs, spare[:, :2]])
        # The odd triple goes to the very end, where no batch can cut it (unless the last one has two places).
        tail = np.concatenate([spare[:, 2], alone, triples[len(triples) - odd :].ravel()])

        order = np.full(len(shuffled), -1, dtype=np.int64)
        for offset in range(6):
            order[at_start + offset] = triples[: 2 * twice].reshape(-1, 6)[:, offset]
        order[len(order) - len(tail) :] = tail
        # `take`, as indexing copies rows six times as slowly
        order[order < 0] = np.take(pairs, generator.permutation(len(pairs)), axis=0).ravel()
        return order


def _narrow(labels: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """The labels as 16-bit integers if they fit: NumPy sorts those in linear time, five times as fast as wider ones."""
    return labels.astype(np.uint16, copy=False) if classes <= 1 << 16 else labels


def _step_sizes(samples: int, batch_size: int, least: int, unit: int, drop_last: bool) -> list[int]:
    full, left = divmod(samples, batch_size)
    sizes = [batch_size] * full
    if drop_last:
        return sizes
    if left and full and left < least:
        both = batch_size + left
        if both < 2 * least:
            return [*sizes[:-1], both]
        first = -(-both // (2 * unit)) * unit
        first -= unit if both - first < least else 0  # `least` is a multiple of `unit`, so both keep enough
        return [*sizes[:-1], first, both - first]
    return [*sizes, left] if left else sizes


def _split(size: int, parts: int, unit: int) -> list[int]:
    units, rest = divmod(size, unit)
    share = [(units // parts + (part < units % parts)) * unit for part in range(parts)]
    share[-1] += rest
    return share


class EvaluationOrder:
    """Samples ``[n]`` in the given order, each once."""

    segments = ("clean",)
    seed = 0

    def __init__(self, indices: Indices, batch_size: int) -> None:
        self.indices, self.batch_size = indices, batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches, the same in every epoch."""
        for start in range(start_step * self.batch_size, len(self.indices), self.batch_size):
            part = self.indices[start : start + self.batch_size]
            yield Batch(part, part)


Order = TrainingOrder | EvaluationOrder
