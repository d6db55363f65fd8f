"""Tests the papers' claims on the embedded glyphs: every method, several seeds, paired differences, corrected p-values.

docs/evidence.md has the protocol, and gets the results between its markers. What is complete is not repeated.

Run: make evidence, or python benchmarks/evidence.py [--only NAME ...] [--out runs/evidence] [--jobs N]
     python benchmarks/evidence.py --page      # the committed numbers into docs/evidence.md and README.md
"""

import argparse
import dataclasses
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import evidence_page
import numpy as np
import torch
from methods import step_times
from numpy.typing import NDArray
from rounds import ROOT

from skd_plugins.commands.study import plans_of, summarise, train_and_measure
from skd_plugins.common.environment import environment
from skd_plugins.common.files import write_json
from skd_plugins.common.meter import tracked
from skd_plugins.data.beton.write import write_beton
from skd_plugins.data.datasets.cifar100c import CORRUPTIONS
from skd_plugins.data.datasets.glyphs import CLASSES, glyphs
from skd_plugins.data.find import find_split, resolve_data
from skd_plugins.data.loader import Loader
from skd_plugins.evaluation.attacks import FGSM
from skd_plugins.evaluation.corruptions import corrupt
from skd_plugins.evaluation.metrics import top1
from skd_plugins.evaluation.ood import max_softmax, ood_metrics
from skd_plugins.evaluation.predictions import Predictions, predict
from skd_plugins.recipe import Recipe, replace
from skd_plugins.training.parts import evaluation_loader
from skd_plugins.training.project import recipe_of
from skd_plugins.weights import load_network

TEST = Path("glyphs_test")
PERTURBED_FAMILIES = 8  # of the test families, for corruptions and attacks
SEVERITY = 3
EPS = (2 / 255, 8 / 255)
DRAWS = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Study:
    """Variants of ``recipes/glyphs_ce.py`` by their names in the tables; the first is the baseline."""

    title: str
    variants: dict[str, str]
    settings: str = ""  # for all of them
    seeds: int = 8
    data: str = "glyphs"

    def recipes(self) -> dict[str, Recipe]:
        texts = {name: f"{text} {self.settings}".strip() for name, text in self.variants.items()}
        found = plans_of(recipe_of("glyphs_ce"), tuple(texts.values()), Path(self.data))
        return {name: found[text] for name, text in texts.items()}


PLAIN = {
    "cross-entropy": "ce",
    "label smoothing 0.05": "ce label_smoothing=0.05",
    "dropout 0.2": "dropout drop_rate=0.2",
    "max-entropy 0.1": "max_entropy weight=0.1",
    "mixup 0.2": "ce mixup=0.2 batch_size=32",
    "CS-KD": "cs_kd weight=0.5",
    "CS-KD, batch": "cs_kd weight=0.5 pairing=batch batch_size=32",
    "CS-KD, bank": "cs_kd weight=0.5 pairing=bank",
    "CS-KD + mixup": "cs_kd weight=0.5 mixup=0.2 batch_size=32",
    "SD-Dropout 0.1": "sd_dropout weight=0.1",
    "SD-Dropout 0.3": "sd_dropout weight=0.3",
    "SD-Dropout 1.0": "sd_dropout weight=1",
    "CS-KD + SD-Dropout 0.1": "sd_dropout base=cs_kd base_args.weight=0.5 weight=0.1",
    "PS-KD": "ps_kd alpha=0.5",
    "BYOT": "byot",
    "DDGSD": "ddgsd",
}
FEW = ("cross-entropy", "label smoothing 0.05", "CS-KD", "CS-KD, bank", "SD-Dropout 0.1", "SD-Dropout 1.0",
       "CS-KD + SD-Dropout 0.1")  # fmt: skip
TUNED = {name: PLAIN[name] for name in FEW}
STUDIES = {
    "plain": Study("10 typefaces, the papers' weight decay", PLAIN),
    "tuned": Study("10 typefaces, tuned weight decay", TUNED, settings="weight_decay=4e-3"),
    "glyphs30": Study("30 typefaces", TUNED, settings="dataset=glyphs30", seeds=4, data="glyphs30"),
    "glyphs82": Study("82 typefaces", TUNED, settings="dataset=glyphs82", seeds=3, data="glyphs82"),
}


def run_study(study: Study, out: Path, jobs: int) -> dict[str, Any]:
    """Trains, measures and compares a study's variants."""
    recipes = study.recipes()
    work = [replace(recipe, seed=seed) for seed in range(study.seeds) for recipe in recipes.values()]
    measured = train_and_measure(work, Path(study.data), TEST, out, jobs)
    perturbed = _perturbed(out.parent)
    with ProcessPoolExecutor(jobs or None, mp_context=get_context("spawn")) as pool:
        more = list(tracked(pool.map(partial(measure_more, perturbed), [run for run, _ in measured]), "robustness"))
    numbers, errors = {}, {}
    for number, name in enumerate(recipes):
        own = slice(number, None, len(recipes))
        numbers[name] = [values | others for (_, values), others in zip(measured[own], more[own], strict=True)]
        errors[name] = np.mean([family_errors(run) for run, _ in measured[own]], axis=0)
    summary = summarise(numbers)
    baseline, *others = recipes
    for name in others:
        summary[name]["error"]["families"] = bootstrap(errors[name] - errors[baseline])
    costs = step_times(recipes, len(CLASSES), rounds=20)
    for name, cost in costs.items():
        summary[name]["step"] = cost
    return {"title": study.title, "seeds": study.seeds, "data": study.data, "variants": study.variants,
            "settings": study.settings, "results": summary, "environment": environment()}  # fmt: skip


def family_errors(run: Path) -> NDArray[np.float64]:
    """The share of wrong predictions in each test family ``[F]``."""
    found = Predictions.load(run / "evaluation-test" / "predictions.safetensors")
    wrong = (found.logits.argmax(1) != found.targets).numpy()
    return np.asarray(wrong.reshape(-1, len(CLASSES)).mean(1))  # a family's images stand together


def families(role: str) -> list[str]:
    """The typefaces of a role, in order."""
    source = glyphs(role)
    return [source.name_of(first).partition(" of ")[2] for first in range(0, len(source.targets), len(source.classes))]


def bootstrap(differences: NDArray[np.float64]) -> list[float]:
    """The 95 % interval of the mean of ``[F]``, with families drawn anew."""
    draw = np.random.default_rng(0).integers(0, len(differences), (DRAWS, len(differences)))
    return np.quantile(differences[draw].mean(1), (0.025, 0.975)).tolist()


def _perturbed(out: Path) -> Path:
    """Writes the first test families as ``val.beton``, and their corrupted copies ``[15, N, H, W, 3]``."""
    folder = out / "perturbed"
    corrupted = folder / "corrupted.npy"
    if not corrupted.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = glyphs("test", PERTURBED_FAMILIES)
        write_beton(source, folder / "val.beton", raw_share=1.0, workers=1)
        images = np.stack([source.load(index) for index in range(len(source.targets))])
        copies = [[corrupt(image, name, SEVERITY) for image in images] for name in CORRUPTIONS]
        np.save(corrupted, np.asarray(copies))
    return folder


def measure_more(perturbed: Path, run: Path) -> dict[str, float]:
    """Out-of-distribution detection, corruptions and attacks of a run; kept in its ``robustness.json``."""
    file = run / "robustness.json"
    if file.exists():
        kept: dict[str, float] = json.loads(file.read_text())
        return kept
    torch.set_num_threads(1)
    model, card = load_network(run)
    recipe = Recipe.from_json(card["recipe"])

    def loader(data: str) -> Loader:
        return evaluation_loader(recipe, find_split(resolve_data("", data), train=False))

    inside = Predictions.load(run / "evaluation-test" / "predictions.safetensors").logits
    same_faces = np.isin(families("test"), families("other")).repeat(len(CLASSES))
    outside = predict(model, loader("glyphs_other")).logits
    ood = ood_metrics(max_softmax(inside[same_faces]), max_softmax(outside))
    result = {"ood_auroc": ood["auroc"], "ood_fpr95": ood["fpr95"]}
    few = loader(str(perturbed))
    targets = torch.cat([target for _, target in few])
    for eps in EPS:
        found = predict(model, few, perturb=FGSM(eps=eps, mean=few.mean, std=few.std))
        result[f"fgsm{round(255 * eps)}_error"] = 1 - top1(found.logits, found.targets)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (few.mean, few.std))
    accuracies = []
    for copies in np.load(perturbed / "corrupted.npy", mmap_mode="r"):
        images = torch.from_numpy(copies.copy()).permute(0, 3, 1, 2) / 255
        found = predict(model, [((images - mean) / std, targets)])
        accuracies.append(top1(found.logits, found.targets))
    result["corruption_error"] = 1 - float(np.mean(accuracies))
    write_json(file, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time; default: one a core")
    parser.add_argument("--seeds", type=int, help="fewer or more than the protocol's")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    results = ROOT / "benchmarks" / "results" / "evidence.json"
    if not options.page:
        content = json.loads(results.read_text()) if results.exists() else {"studies": {}}
        for name in options.only:
            study = STUDIES[name] if options.seeds is None else dataclasses.replace(STUDIES[name], seeds=options.seeds)
            content["studies"][name] = run_study(study, options.out / name, options.jobs)
            write_json(results, content)
    evidence_page.write(json.loads(results.read_text()), ROOT)


if __name__ == "__main__":
    main()
