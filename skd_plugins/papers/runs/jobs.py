"""From artefacts to jobs: each network that is needed, once, with everything that is measured on it."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...recipe import Recipe, replace
from ...training.project import project, recipe_of
from ..tables.artefact import Artefact, Detector, Entry, Training
from .address import DETECTORS_VERSION, address_of, hash_of
from .inputs import Datasets
from .mini import mini_recipe


@dataclass(eq=False, kw_only=True)
class Job:
    """A network (or detector) to train, and what to measure on it."""

    address: str
    recipe: Recipe  # what is trained; for a detector, the recipe of its backbone
    data: Path
    present: bool  # whether the training data exist
    needs: "Job | None" = None  # the job whose network it uses: a teacher or a backbone
    config: str = ""  # a detector's file in ``detection/configs`` and overrides, else empty
    evaluations: set[str] = field(default_factory=set)

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.config or self.recipe.name} seed {self.recipe.seed}"


class Plan:
    """The jobs of some artefacts; each training has `seeds` runs, by default as `seeds_of` says."""

    def __init__(self, artefacts: Iterable[Artefact], datasets: Datasets, seeds: int | None = None) -> None:
        self.artefacts = tuple(artefacts)
        self.datasets = datasets
        self.seeds = seeds
        self.jobs: dict[str, Job] = {}
        self._of_run: dict[tuple[int, int], Job] = {}
        for artefact in self.artefacts:
            for job in self.jobs_of(artefact):
                job.evaluations.update(artefact.wanted)

    def seeds_of(self, artefact: Artefact) -> int:
        """Runs of each of its trainings: as given, else 1 at the mini scale and the artefact's own number at full."""
        return self.seeds or (1 if self.datasets.scale == "mini" else artefact.seeds)

    def jobs_of(self, artefact: Artefact, entry: Entry | None = None) -> list[Job]:
        """The jobs of an artefact (or of one of its entries), each once, without the jobs that these depend on."""
        entries = artefact.entries if entry is None else (entry,)
        jobs = [self._job(one.run, seed) for one in entries for seed in range(self.seeds_of(artefact))]
        return list(dict.fromkeys(jobs))

    def needed(self, artefact: Artefact) -> list[Job]:
        """The artefact's jobs with all that they depend on, each after the one that it needs."""
        return list(dict.fromkeys(one for job in self.jobs_of(artefact) for one in (job.needs, job) if one))

    @property
    def levels(self) -> tuple[list[Job], list[Job]]:
        """The jobs that need no other one, and then those that do."""
        jobs = self.jobs.values()
        return [job for job in jobs if not job.needs], [job for job in jobs if job.needs]

    def _job(self, run: Training | Detector, seed: int) -> Job:
        key = id(run), seed
        if key not in self._of_run:
            made = self._detector(run, seed) if isinstance(run, Detector) else self._training(run, seed)
            self._of_run[key] = self.jobs.setdefault(made.address, made)
        return self._of_run[key]

    def _training(self, run: Training, seed: int) -> Job:
        needs = self._job(run.teacher, seed) if run.teacher else None
        recipe, changes = recipe_of(run.recipe), dict(run.changes)
        if "method" in changes:  # the recipe's arguments belong to its own method
            changes.setdefault("method_args", {})
        changes["model_args"] = {**recipe.model_args, **changes.get("model_args", {})}
        recipe = replace(recipe, **changes)
        dataset = recipe.dataset
        if self.datasets.scale == "mini":
            recipe = mini_recipe(recipe)
        # Equal addresses must get equal names, so the name does not mention the artefact.
        recipe = replace(recipe, name=f"{recipe.model}.{recipe.method}_{dataset}".replace("/", "_"), seed=seed)
        checksum = self.datasets.checksum(dataset)
        return Job(
            address=address_of(recipe, checksum or f"absent: {dataset}", network=needs.address if needs else ""),
            recipe=recipe,
            data=self.datasets.folder(dataset),
            present=checksum is not None,
            needs=needs,
        )

    def _detector(self, run: Detector, seed: int) -> Job:
        backbone, config = self._job(run.backbone, seed), run.config
        if self.datasets.scale == "mini":  # the detector on digits, half as long as its own 12 epochs
            config = f"digits_demo SKD.EPOCHS {3.5 if run.config.endswith('_0.5x') else 6}"
        texts = _config_texts(project() / "detection" / "configs" / f"{config.split()[0]}.yaml")
        values = {"config": config, "texts": texts, "version": DETECTORS_VERSION, "network": backbone.address}
        return dataclasses.replace(backbone, address=hash_of(values), needs=backbone, config=config, evaluations=set())


def _config_texts(path: Path) -> list[str]:
    """A detector's configuration file, and those it is based on."""
    text = path.read_text()
    base = yaml.safe_load(text).get("_BASE_")
    return [text] if base is None else [text, *_config_texts(path.parent / base)]
