"""Which samples a training step gets: one order for all segments, processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError

Indices = NDArray[np.int64]
ROLES = ("anchor", "pair", "view", "clean")


@dataclass(frozen=True)
class Batch:
    """One process's share of a step (a micro-batch of it, under gradient accumulation).

    Attributes:
        indices: dataset indices ``[S * b]``, the segments one after another.
        positions: each anchor's position in the epoch's order ``[b]``.
    """

    indices: Indices
    positions: Indices


class TrainingOrder:
    """The order of an epoch: every anchor once, pairs drawn from the anchor's class.

    A pure function of (seed, epoch): nothing has to be saved or replayed to resume. Step k takes the anchors
    ``[k * batch_size, (k + 1) * batch_size)`` of the epoch's shuffle, whatever the number of processes (with `couples`
    the shuffle knows it); they are divided over micro-batches and processes. The last step takes what is left; if that
    is less than half a batch, the last two steps share their anchors evenly. Where even that left a process fewer than
    two anchors (BatchNorm can't train on one), they are one step, larger than `batch_size`.

    Args:
        targets: each sample's class ``[N]``.
        segments: roles of the batch's parts, the first is ``anchor``.
        batch_size: anchors a step, over all processes and micro-batches.
        seed: seed of the shuffles.
        couples: every class in a process's batch is there at least twice (for CS-KD with ``pairing="batch"``). A class
            with one single sample has no partner.
        even: an even number of anchors wherever possible (timm's mixup needs that).
        rank: this process.
        world: number of processes.
        accumulation: micro-batches a step.
        drop_last: leave out what does not fill a batch, as timm's training loaders do.

    Raises:
        SkdError: the data or the batch is too small to be divided that way.
    """

    def __init__(
        self,
        targets: Indices,
        *,
        segments: Sequence[str] = ("anchor",),
        batch_size: int,
        seed: int = 0,
        couples: bool = False,
        even: bool = False,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        drop_last: bool = False,
    ) -> None:
        parts = world * accumulation
        wrong = [role for role in segments if role not in ROLES]
        if wrong or not segments or segments[0] != "anchor":
            raise SkdError(f"segments start with 'anchor' and are of {ROLES}, got {tuple(segments)}")
        unit = 2 if couples or even else 1
        if batch_size % (unit * parts) or batch_size < 1:
            raise SkdError(
                f"batch_size={batch_size} does not divide into {world} process(es) x {accumulation} micro-batch(es)"
                + (" of an even number of images" if unit == 2 else "")
            )
        if batch_size < 2 * parts:
            raise SkdError(
                f"batch_size={batch_size} is too small for {world} process(es) x {accumulation} micro-batch(es), which "
                "need two images each (BatchNorm can't train on one)"
            )
        if len(targets) < 2 * parts:
            raise SkdError(
                f"{len(targets)} training images are too few for {world} process(es) x {accumulation} micro-batch(es), "
                "which need two each"
            )
        self.targets = np.asarray(targets, dtype=np.int64)
        self.segments = tuple(segments)
        self.batch_size, self.seed, self.couples = batch_size, seed, couples
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.counts = np.bincount(self.targets)
        self.starts = np.cumsum(self.counts) - self.counts
        self._labels = _narrow(self.targets, len(self.counts))  # small, since every look-up in it misses the cache
        self.by_class = np.argsort(self._labels, kind="stable")
        least = max(2 * parts, batch_size // 2 // unit * unit)
        sizes = _step_sizes(len(targets), batch_size, least, unit, drop_last)
        self._shares = [_split(size, parts, unit) for size in sizes]
        self._step_ends = np.cumsum([sum(share) for share in self._shares])

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return len(self._shares)

    def anchors(self, epoch: int) -> Indices:
        """All samples in the epoch's order ``[N]``."""
        generator = self._generator(epoch, 0)
        if self.couples:
            return self._couples_first(generator)
        shuffled: Indices = generator.permutation(len(self.targets))
        return shuffled

    def pairs(self, epoch: int) -> Indices:
        """For each position of the order a sample of the anchor's class, uniform and with replacement ``[N]``.

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
            for micro in range(self.accumulation):
                # Ranks are neighbours within a micro-batch, so gathering them in rank order restores the global order.
                part = micro * self.world + self.rank
                place = slice(ends[part] - share[part], ends[part])
                positions = np.arange(place.start, place.stop)
                yield Batch(np.concatenate([roles[role][place] for role in self.segments]), positions)

    def weights(self, start_step: int = 0) -> Iterator[float]:
        """Factor of each batch's mean loss, so that averaging over processes and micro-batches is the step's mean."""
        for share in self._shares[start_step:]:
            for micro in range(self.accumulation):
                yield share[micro * self.world + self.rank] * len(share) / sum(share)

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, stream])))

    def _draw_pairs(self, anchors: Indices, epoch: int) -> Indices:
        classes = self._labels[anchors]
        offset = (self._generator(epoch, 1).random(len(anchors)) * self.counts[classes]).astype(np.int64)
        pairs: Indices = self.by_class[self.starts[classes] + offset]
        return pairs

    def _couples_first(self, generator: np.random.Generator) -> Indices:
        """A shuffle in which neighbours at even positions of a process's batch are of one class.

        Classes with an odd number of samples give one triple. Two triples fill six places of a batch (so batches of
        fewer than six have no room for them). Samples that are alone in their class and a triple left over come last.
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
        sixes = sizes // 6  # a batch's room for two triples: every sixth place from its first on
        nth = np.arange(sixes.sum()) - np.repeat(np.cumsum(sixes) - sixes, sixes)
        begins = np.repeat(np.cumsum(sizes) - sizes, sixes) + 6 * nth
        twice = min(len(triples) // 2, len(begins))
        while True:  # two triples that find no room before the last places become two more of those
            last = len(alone) + 3 * odd + (len(triples) - odd - 2 * twice)
            room = begins[begins + 6 <= len(shuffled) - last]
            if twice <= len(room):
                break
            twice = len(room)
        at_start = generator.permutation(room)[:twice]
        # Triples without room are broken up: two together, the third among those without a partner.
        spare = triples[2 * twice : len(triples) - odd]
        pairs = np.concatenate([pairs, spare[:, :2]])
        # The triple goes to the very end, where no batch can end within it (unless the last one has two places).
        tail = np.concatenate([spare[:, 2], alone, triples[len(triples) - odd :].ravel()])

        order = np.full(len(shuffled), -1, dtype=np.int64)
        for offset in range(6):
            order[at_start + offset] = triples[: 2 * twice].reshape(-1, 6)[:, offset]
        order[len(order) - len(tail) :] = tail
        # `take`, as indexing copies rows six times as slowly
        order[order < 0] = np.take(pairs, generator.permutation(len(pairs)), axis=0).ravel()
        return order


def _narrow(labels: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """The labels as 16-bit integers, if they fit. NumPy sorts those in linear time, wider ones five times as slowly."""
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
        first -= unit if both - first < least else 0  # `least` is a multiple of `unit`, so this leaves both enough
        return [*sizes[:-1], first, both - first]
    return [*sizes, left] if left else sizes


def _split(size: int, parts: int, unit: int) -> list[int]:
    units, rest = divmod(size, unit)
    share = [(units // parts + (part < units % parts)) * unit for part in range(parts)]
    share[-1] += rest
    return share


def evaluation_shard(samples: int, rank: int, world: int) -> Indices:
    """This process's samples for evaluation: disjoint contiguous shards that together are everything."""
    return np.array_split(np.arange(samples, dtype=np.int64), world)[rank]
