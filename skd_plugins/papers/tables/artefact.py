"""What an artefact is: the trainings it needs, what is measured on them, and how it is laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...common.errors import SkdError
from .published import Published, published


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """A network to train.

    Args:
        recipe: name of the file in ``recipes/``.
        changes: fields of the recipe, as in `skd_plugins.replace`.
        teacher: the training whose network (of the same seed) becomes ``method_args["teacher"]``.
    """

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    teacher: Training | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A detector to train with ``detection/train_net.py``.

    Args:
        config: name of the file in ``detection/configs/``.
        backbone: the training whose network (of the same seed) is its backbone.
    """

    config: str
    backbone: Training


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A training and the cells of the artefact that it fills; method, architecture and data set are as printed.

    Args:
        setting: words that a cell's setting must have to belong to this entry; other words select the measure.
    """

    run: Training | Detector
    method: str
    architecture: str
    dataset: str
    setting: Mapping[str, str] = field(default_factory=dict)

    def has(self, row: Published) -> bool:
        """Whether a printed number belongs to this training."""
        same = (row.method, row.architecture, row.dataset) == (self.method, self.architecture, self.dataset)
        return same and self.setting.items() <= row.settings.items()

    @property
    def label(self) -> str:
        """Its name in lists and legends."""
        words = " ".join(f"{name}={value}" for name, value in self.setting.items())
        return ", ".join(text for text in (self.method, self.architecture, self.dataset, words) if text)


def entries_of(
    training: Callable[[str, str, str], Training],
    methods: Sequence[str],
    architectures: Sequence[str],
    datasets: Sequence[str],
) -> tuple[Entry, ...]:
    """Every method on every architecture and data set, as printed; `training` maps the three to a training."""
    return tuple(
        Entry(run=training(method, network, dataset), method=method, architecture=network, dataset=dataset)
        for network in architectures
        for method in methods
        for dataset in datasets
    )


@dataclass(frozen=True)
class Measure:
    """Where the value of a metric is found.

    Args:
        evaluation: a name in `EVALUATIONS`.
        key: of that evaluation's values; ``{name}`` stands for that word of the cell's setting.
    """

    evaluation: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A table or a figure.

    Args:
        kind: a ``grid`` is a table of two hyper-parameters that is drawn as a heat map too.
        measures: of a table, metric to where its value is found.
        figure: of a figure, what draws it: a name in `FIGURES`.
        evaluations: what a figure needs of each entry.
        rows: what a row of the table stands for: fields of `Published`, or words of its setting.
        columns: what a column stands for.
        seeds: how many the paper averages over; 1 where it does not say.
        notes: what the paper leaves open and what is done here, one sentence each.
    """

    id: str
    title: str
    entries: tuple[Entry, ...]
    kind: Literal["table", "grid", "figure"] = "table"
    measures: Mapping[str, Measure] = field(default_factory=dict)
    figure: str = ""
    evaluations: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("method",)
    columns: tuple[str, ...] = ("dataset",)
    seeds: int = 3
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[Published, ...]:
        """Its published numbers, the derived ones too."""
        return tuple(row for row in published() if row.id == self.id)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The evaluations of each entry."""
        names = [measure.evaluation for measure in self.measures.values()]
        return tuple(dict.fromkeys((*names, *self.evaluations)))

    def entry_of(self, row: Published) -> Entry:
        """The one training of a printed number; a derived number has the training it is printed beside."""
        found = [entry for entry in self.entries if entry.has(row)]
        if len(found) != 1:
            raise SkdError(f"{self.id}: {len(found)} trainings for {row.method}, {row.dataset}, {row.setting!r}")
        return found[0]
