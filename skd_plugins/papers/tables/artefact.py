"""What an artefact is: the trainings it needs, what is measured on them, and how it is laid out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .published import METRICS, Published, published


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """A network to train."""

    recipe: str  # the name of a file in ``recipes/``
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe, as in `skd_plugins.replace`
    teacher: "Training | None" = None  # its network of the same seed becomes ``method_args["teacher"]``


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A detector to train with ``detection/train_net.py``."""

    config: str  # the name of a file in ``detection/configs/``
    backbone: Training  # its network of the same seed is the backbone


_NO_STD = "The paper states no standard deviation: 'agrees' then means within ours over the seeds."
# Method, architecture, data set and setting, all as printed, to what has to be trained.
RunOf = Callable[[str, str, str, Mapping[str, str]], Training | Detector]


@dataclass(frozen=True)
class Entry:
    """A training and the cells of the artefact that it fills; method, architecture and data set are as printed."""

    run: Training | Detector
    method: str
    architecture: str
    dataset: str
    setting: Mapping[str, str]  # words that a cell's setting must have to belong to this entry

    def has(self, row: Published) -> bool:
        """Whether a printed number belongs to this training."""
        same = (row.method, row.architecture, row.dataset) == (self.method, self.architecture, self.dataset)
        return same and self.setting.items() <= row.settings.items()

    @property
    def label(self) -> str:
        """Its name in lists."""
        words = " ".join(f"{name}={value}" for name, value in self.setting.items())
        return ", ".join(text for text in (self.method, self.architecture, self.dataset, words) if text)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A table or a figure; a grid is a table of two hyper-parameters that is drawn as a heat map too."""

    id: str
    title: str
    entries: tuple[Entry, ...]
    kind: Literal["table", "grid", "figure"] = "table"
    wanted: tuple[str, ...]  # the evaluations of each entry
    numbers: tuple[Published, ...] = ()
    figure: str = ""  # of a figure, what draws it: a name in `FIGURES`
    rows: tuple[str, ...] = ("method",)  # what a row stands for: fields of `Published`, or words of its setting
    columns: tuple[str, ...] = ("dataset",)
    seeds: int = 3  # how many the paper averages over; 1 where it does not say
    notes: tuple[str, ...] = ()  # what the paper leaves open and what is done here, one sentence each

    @property
    def methods(self) -> tuple[str, ...]:
        """As printed, each once."""
        return tuple(dict.fromkeys(entry.method for entry in self.entries))

    def entry_of(self, row: Published) -> Entry:
        """The training of a printed number; a derived number has the training it is printed beside."""
        return next(entry for entry in self.entries if entry.has(row))


def table(run_of: RunOf, id: str, title: str, *notes: str, by: tuple[str, ...] = (), **layout: Any) -> Artefact:
    """A table: its published numbers say which trainings and evaluations it needs.

    The words `by` of their settings tell trainings apart, all others tell what is measured.
    """
    numbers = tuple(row for row in published() if row.id == id)
    entries: dict[Any, Entry] = {}
    for row in numbers:
        names = row.method, row.architecture, row.dataset
        setting = {word: row.settings[word] for word in by if word in row.settings}
        key = (*names, *setting.items())
        if key not in entries:
            entries[key] = Entry(run_of(*names, row.settings), *names, setting)
    if layout.get("seeds", Artefact.seeds) > 1 and not any(row.std for row in numbers):
        notes = (*notes, _NO_STD)
    wanted = tuple(dict.fromkeys(METRICS[row.metric].evaluation for row in numbers if not row.derived))
    every = tuple(entries.values())
    return Artefact(id=id, title=title, entries=every, wanted=wanted, numbers=numbers, notes=notes, **layout)


def figure(
    run_of: RunOf, id: str, title: str, draw: str, methods: Iterable[str], *notes: str, dataset: str = "CIFAR-100",
    **rest: Any,
) -> Artefact:  # fmt: skip
    """A figure of one ResNet-18 per method, by default of what ``clean`` measures; `rest` are fields of `Artefact`."""
    entries = tuple(Entry(run_of(name, "ResNet-18", dataset, {}), name, "ResNet-18", dataset, {}) for name in methods)
    fields = {"kind": "figure", "figure": draw, "wanted": ("clean",), "seeds": 1, **rest}
    return Artefact(id=id, title=title, entries=entries, notes=notes, **fields)
