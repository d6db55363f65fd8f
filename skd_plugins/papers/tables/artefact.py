"""What an artefact is: the trainings it needs, what is measured of them, how it is laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...common.errors import SkdError
from .published import Published, published


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """A network to train: a recipe file of the project and what differs from it.

    Attributes:
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

    Attributes:
        config: name of the file in ``detection/configs/``.
        backbone: the training whose network (of the same seed) is its backbone.
    """

    config: str
    backbone: Training


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A training and which cells of the artefact it is for.

    Attributes:
        run: what is trained.
        method: as printed.
        architecture: as printed.
        dataset: as printed.
        setting: words that a cell's setting must have to be this entry's; other words are the measure's.
    """

    run: Training | Detector
    method: str
    architecture: str
    dataset: str
    setting: Mapping[str, str] = field(default_factory=dict)

    def has(self, row: Published) -> bool:
        """Whether a printed number is of this training."""
        words = row.settings
        return (row.method, row.architecture, row.dataset) == (self.method, self.architecture, self.dataset) and all(
            words.get(name) == value for name, value in self.setting.items()
        )

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
    """Every method on every architecture and data set, as printed; `training` says what is trained for the three."""
    return tuple(
        Entry(run=training(method, network, dataset), method=method, architecture=network, dataset=dataset)
        for network in architectures
        for method in methods
        for dataset in datasets
    )


@dataclass(frozen=True)
class Measure:
    """Where a metric's value is found.

    Attributes:
        evaluation: see `evaluations.EVALUATIONS`.
        key: of its values; ``{name}`` is replaced by that word of the cell's setting.
    """

    evaluation: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A table or a figure.

    Attributes:
        id: ``cs-kd/table1``.
        title: one line.
        entries: the trainings.
        kind: ``grid`` is a table of two hyper-parameters, drawn as a heat map too.
        measures: metric of the published table to where its value is found; of a table.
        figure: what draws it, see `figures.DRAWINGS`; of a figure.
        evaluations: what a figure needs of each entry, beside what `measures` name.
        rows: what a line of the laid-out table is: fields of `Published`, or words of its setting.
        columns: what a column is.
        seeds: how many the paper averages over; 1 where it says nothing.
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
        """The published numbers that belong to it, the derived ones too."""
        return tuple(row for row in published() if row.id == self.id)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The evaluations of each entry."""
        names = [measure.evaluation for measure in self.measures.values()]
        return tuple(dict.fromkeys((*names, *self.evaluations)))

    def entry_of(self, row: Published) -> Entry:
        """The training that a printed number is of; a derived one is of the training it is printed beside.

        Raises:
            SkdError: there is none, or more than one: the artefact is declared wrongly.
        """
        found = [entry for entry in self.entries if entry.has(row)]
        if len(found) != 1:
            raise SkdError(f"{self.id}: {len(found)} trainings for {row.method}, {row.dataset}, {row.setting!r}")
        return found[0]
