"""From artefacts to jobs: each network that is needed, once, with everything that is to be measured of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from ...recipe import Recipe, replace
from ...training.project import project, recipe_of
from ..tables.artefact import Artefact, Detector, Entry, Training
from .address import RESULTS_VERSION, address_of, hash_of
from .inputs import Datasets
from .mini import SEEDS, mini_recipe


@dataclass(eq=False, kw_only=True)
class Job:
    """A network (or detector) to train, and what to measure of it.

    Attributes:
        address: see `address_of`.
        recipe: what is trained; of a detector, its backbone's.
        data: the folder of the training data.
        present: whether the data are there.
        needs: the job whose network it uses: a teacher or a backbone.
        config: a detector's file in ``detection/configs``, else empty.
        evaluations: see `evaluations.EVALUATIONS`.
    """

    address: str
    recipe: Recipe
    data: Path
    present: bool
    needs: Job | None = None
    config: str = ""
    evaluations: set[str] = field(default_factory=set)

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.config or self.recipe.name} seed {self.recipe.seed}"

    @property
    def level(self) -> int:
        """How many jobs have to come before it, one after the other."""
        return 0 if self.needs is None else self.needs.level + 1


class Plan:
    """The jobs of some artefacts.

    Args:
        artefacts: what is wanted.
        datasets: of the scale.
        seeds: runs of each training; None for each artefact's own number.
    """

    def __init__(self, artefacts: Iterable[Artefact], datasets: Datasets, seeds: int | None = None) -> None:
        self.artefacts = tuple(artefacts)
        self.datasets = datasets
        self.seeds = seeds
        self.jobs: dict[str, Job] = {}
        self._of_training: dict[tuple[int, int], Job] = {}
        self._cells: dict[tuple[str, int], tuple[Job, ...]] = {}
        for artefact in self.artefacts:
            for entry in artefact.entries:
                jobs = tuple(self._job(entry.run, seed) for seed in range(self.seeds_of(artefact)))
                for job in jobs:
                    job.evaluations.update(artefact.wanted)
                self._cells[artefact.id, id(entry)] = jobs

    def seeds_of(self, artefact: Artefact) -> int:
        """How many runs each of its trainings has."""
        return self.seeds or (SEEDS if self.datasets.scale == "mini" else artefact.seeds)

    def jobs_of(self, artefact: Artefact, entry: Entry | None = None) -> list[Job]:
        """The jobs that an artefact (or one of its entries) needs, each once, without those that these need."""
        entries = artefact.entries if entry is None else (entry,)
        return list({job.address: job for one in entries for job in self._cells[artefact.id, id(one)]}.values())

    def needed(self, artefact: Artefact) -> list[Job]:
        """Its jobs after those that they need."""
        found: dict[str, Job] = {}
        for job in self.jobs_of(artefact):
            if job.needs is not None:
                found.setdefault(job.needs.address, job.needs)
            found.setdefault(job.address, job)
        return list(found.values())

    @cached_property
    def levels(self) -> list[list[Job]]:
        """All jobs; those of a level need only jobs of the levels before."""
        levels: dict[int, list[Job]] = {}
        for job in self.jobs.values():
            levels.setdefault(job.level, []).append(job)
        return [levels[number] for number in sorted(levels)]

    def _job(self, run: Training | Detector, seed: int) -> Job:
        known = self._of_training.get((id(run), seed))
        if known is None:
            made = self._detector(run, seed) if isinstance(run, Detector) else self._training(run, seed)
            known = self._of_training[id(run), seed] = self.jobs.setdefault(made.address, made)
        return known

    def _training(self, run: Training, seed: int) -> Job:
        needs = None if run.teacher is None else self._job(run.teacher, seed)
        recipe, changes = recipe_of(run.recipe), dict(run.changes)
        if "method" in changes:  # another method's arguments are not the recipe's
            changes.setdefault("method_args", {})
        if "model_args" in changes:  # they come on top of the recipe's
            changes["model_args"] = {**recipe.model_args, **changes["model_args"]}
        recipe = replace(recipe, **changes)
        dataset = recipe.dataset
        if self.datasets.scale == "mini":
            recipe = mini_recipe(recipe)
        checksum = self.datasets.checksum(dataset)
        data = checksum or f"absent: {dataset}"
        # Equal addresses get equal names: nothing of the artefact is in it.
        recipe = replace(recipe, name=f"{recipe.model}.{recipe.method}_{dataset}".replace("/", "_"), seed=seed)
        address = address_of(recipe, data, network=needs.address if needs else "")
        return Job(
            address=address, recipe=recipe, data=self.datasets.folder(dataset), present=checksum is not None,
            needs=needs,
        )  # fmt: skip

    def _detector(self, run: Detector, seed: int) -> Job:
        backbone = self._job(run.backbone, seed)
        config = _mini_config(run.config) if self.datasets.scale == "mini" else run.config
        texts = _config_texts(project() / "detection" / "configs" / f"{config.split()[0]}.yaml")
        values = {"config": config, "texts": texts, "version": RESULTS_VERSION, "network": backbone.address}
        return Job(
            address=hash_of(values), recipe=backbone.recipe, data=backbone.data, present=backbone.present,
            needs=backbone, config=config,
        )  # fmt: skip


def _config_texts(path: Path) -> list[str]:
    """A detector's configuration file, and those it is based on."""
    text = path.read_text()
    base = yaml.safe_load(text).get("_BASE_")
    return [text] if base is None else [text, *_config_texts(path.parent / base)]


def _mini_config(config: str) -> str:
    """The digits' detector instead, half as long as its own 12 epochs; further words are overrides."""
    return f"digits_demo SKD.EPOCHS {3.5 if config.endswith('_0.5x') else 6}"
