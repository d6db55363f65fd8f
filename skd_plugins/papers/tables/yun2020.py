"""The 17 artefacts of CS-KD (Yun et al. 2020): 7 tables and 10 figures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from .artefact import Artefact, Entry, Measure, Training, entries_of

# Data set as printed, and as in the names of the recipes.
DATASETS = {
    "CIFAR-100": "cifar100",
    "TinyImageNet": "tinyimagenet",
    "CUB-200-2011": "cub200",
    "Stanford Dogs": "dogs",
    "MIT67": "mit67",
}
_SUFFIX = {"ResNet-18": "", "PreAct ResNet-18": "", "DenseNet-121": "_densenet121", "ResNet-10": "_resnet10"}
# T and weight as in the recipes: what the authors' commands have.
_SMALL = {"cifar100", "tinyimagenet"}
CE: Mapping[str, Any] = {"method": "ce", "method_args": {}}


def cs_kd_args(dataset: str) -> dict[str, Any]:
    """CS-KD's arguments on a data set, those of the recipes."""
    return {"weight": 1.0 if dataset in _SMALL else 3.0, "temperature": 4.0, "pairing": "sampled"}


def training(method: str, architecture: str, dataset: str) -> Training:
    """The training of a method of Tables 1 to 6, all names as printed."""
    name = DATASETS[dataset]
    own = cs_kd_args(name)
    changes: dict[str, Mapping[str, Any]] = {
        "Cross-entropy": CE,
        "AdaCos": {"method": "adacos", "method_args": {}, "model_args": {"classifier": "cosine"}},
        "Virtual-softmax": {"method": "virtual_softmax", "method_args": {}},
        "Maximum-entropy": {"method": "max_entropy", "method_args": {"weight": 0.1}},
        "Label-smoothing": {"method": "label_smoothing", "method_args": {"label_smoothing": 0.1}},
        "CS-KD": {},
        "CS-KD-E": {
            "method": "cs_kd_e",
            "method_args": {"weight": own["weight"], "temperature": own["temperature"], "clean_weight": 1.0},
        },
        "DDGSD": {"method": "ddgsd", "method_args": {}},
        "BYOT": {"method": "byot", "method_args": {}},
        "Mixup": {**CE, "mixup": 1.0},
        "Mixup + CS-KD": {"mixup": 1.0},
        "KD": {"method": "kd", "method_args": {"base": "ce", "weight": 1.0, "temperature": 4.0}},
        "KD + CS-KD": {
            "method": "kd",
            "method_args": {"base": "cs_kd", "base_args": own, "weight": 1.0, "temperature": 4.0},
        },
    }
    return Training(
        recipe=f"cskd_{name}{_SUFFIX[architecture]}",
        changes=changes[method],
        teacher=training("CS-KD", "DenseNet-121", dataset) if method.startswith("KD") else None,
    )


_entries = partial(entries_of, training)


_ALL = tuple(DATASETS)
_BASELINES = ("Cross-entropy", "AdaCos", "Virtual-softmax", "Maximum-entropy", "Label-smoothing", "CS-KD")
_ERROR = {"top1_error": Measure("clean", "top1")}
_CHOSEN = (
    "The paper chose T from {1, 4} and the weight from {1, 2, 3, 4} and does not say which: T = 4 everywhere, weight 1 "
    "on CIFAR-100 and TinyImageNet and 3 on the others, as in the authors' commands; no search is run."
)
_BASELINE_ARGS = (
    "The baselines' own settings are not in the paper: maximum entropy has weight 0.1, label smoothing 0.1 (Table 6's "
    "calibration of maximum entropy suggests a stronger one)."
)
_LAST = "The network after the last epoch is evaluated, on the official test images."


def _imagenet(method: str, architecture: str) -> Training:
    names = {"ResNet-50": "r50", "ResNet-101": "r101", "ResNeXt-101-32x4d": "resnext101"}
    return Training(recipe=f"imagenet_{names[architecture]}_{'ce' if method == 'Cross-entropy' else 'cskd'}")


def _grid() -> tuple[Entry, ...]:
    return tuple(
        Entry(
            run=Training(
                recipe="cskd_cifar100",
                changes={"method_args": {**cs_kd_args("cifar100"), "temperature": float(t), "weight": float(weight)}},
            ),
            method="CS-KD",
            architecture="PreAct ResNet-18",
            dataset="CIFAR-100",
            setting={"T": t, "lambda": weight},
        )
        for t in ("0.1", "0.5", "1", "4", "10", "20")
        for weight in ("0.1", "0.5", "1", "2", "3", "4", "10", "20")
    )


def _table(
    number: int, title: str, *, entries: tuple[Entry, ...], measures: Mapping[str, Measure] = _ERROR, **layout: Any
) -> Artefact:
    return Artefact(id=f"cs-kd/table{number}", title=title, entries=entries, measures=measures, **layout)


_TABLES = (
    _table(
        1,
        "Top-1 error of output regularisers",
        entries=_entries(_BASELINES, ("ResNet-18", "DenseNet-121"), _ALL),
        rows=("architecture", "method"),
        notes=(_CHOSEN, _BASELINE_ARGS, _LAST),
    ),
    _table(
        2,
        "Top-1 error of self-distillation methods",
        entries=_entries(("Cross-entropy", "DDGSD", "BYOT", "CS-KD"), ("ResNet-18",), _ALL),
        notes=(_CHOSEN, "DDGSD and BYOT have the settings of SD-Dropout's authors' code; this paper states none."),
    ),
    _table(
        3,
        "Top-1 error with Mixup",
        entries=_entries(("Cross-entropy", "CS-KD", "Mixup", "Mixup + CS-KD"), ("ResNet-18",), _ALL),
        notes=(_CHOSEN, "Mixup's alpha is not stated: 1, as in the authors' code of Mixup for CIFAR."),
    ),
    _table(
        4,
        "Top-1 error of a ResNet-10 with a DenseNet-121 as teacher",
        entries=_entries(("Cross-entropy", "CS-KD", "KD", "KD + CS-KD"), ("ResNet-10",), _ALL),
        notes=(
            _CHOSEN,
            "KD's temperature and weight are not stated: 4 and 1. The teacher is Table 1's DenseNet-121 with CS-KD of "
            "the same seed.",
        ),
    ),
    _table(
        5,
        "Top-1 error on ImageNet",
        entries=tuple(
            Entry(run=_imagenet(method, network), method=method, architecture=network, dataset="ImageNet")
            for network in ("ResNet-50", "ResNet-101", "ResNeXt-101-32x4d")
            for method in ("Cross-entropy", "CS-KD")
        ),
        columns=("architecture",),
        seeds=1,
        notes=(
            "Learning rate, its steps, T and the weight are not stated for ImageNet: 0.1, divided by 10 after 30 and "
            "60 of 90 epochs, 4 and 1. The number of runs is not stated: one.",
        ),
    ),
    _table(
        6,
        "Top-5 error, calibration and retrieval",
        entries=_entries((*_BASELINES, "CS-KD-E"), ("ResNet-18",), _ALL),
        measures={
            "top5_error": Measure("clean", "top5"),
            "ece_percent": Measure("clean", "ece"),
            "recall_at_1": Measure("clean", "recall_at_1"),
        },
        rows=("metric", "method"),
        notes=(
            _CHOSEN,
            _BASELINE_ARGS,
            "CS-KD-E's weight is not stated: 1; its un-augmented image is the test-time crop.",
            "AdaCos' printed ECE seems to be of cosines without the learned scale; ours is of the network's logits as "
            "they are used to predict.",
        ),
    ),
    _table(
        7,
        "Sensitivity to temperature and weight",
        kind="grid",
        entries=_grid(),
        rows=("T",),
        columns=("lambda",),
        seeds=1,
        notes=("The number of runs is not stated: one.",),
    ),
)


def _figure(number: str, title: str, draw: str, *entries: Entry, notes: tuple[str, ...] = ()) -> Artefact:
    return Artefact(
        id=f"cs-kd/figure{number}", title=title, kind="figure", entries=entries, figure=draw, evaluations=("clean",),
        seeds=1, notes=notes,
    )  # fmt: skip


_PAIR = ("Cross-entropy", "CS-KD")
_BINS = ("Bins and their range are not stated.",)
_FIGURES = (
    _figure(
        "1b", "Predictive distributions on commonly misclassified images, CIFAR-100", "distributions",
        *_entries(_PAIR, ("ResNet-18",), ("CIFAR-100",)),
        notes=("Which images is not stated: those with the largest mean confidence of both networks are shown.",),
    ),
    _figure(
        "2", "Log-probabilities on commonly misclassified images, CIFAR-100", "histograms",
        *_entries(_PAIR, ("ResNet-18",), ("CIFAR-100",)), notes=_BINS,
    ),
    _figure(
        "3", "t-SNE of the features before the classifier, CIFAR-100", "tsne",
        *_entries(("Cross-entropy", "Virtual-softmax", "AdaCos", "CS-KD"), ("ResNet-18",), ("CIFAR-100",)),
        notes=("Set, classes, points and perplexity are not stated: the first 10 classes' test images, 30.",),
    ),
    _figure(
        "4", "Confusion of superclasses and error of the fine labels, mixed data set", "hierarchy",
        *(
            Entry(
                run=Training(recipe="cskd_mixed", changes=CE if method == "Cross-entropy" else {}),
                method=method, architecture="ResNet-18", dataset="CUB + Dogs + MIT67",
            )
            for method in _PAIR
        ),
        notes=(
            "The text gives one number: CS-KD takes 99.3 % of the birds for birds.",
            "Which 30 training images a label were drawn is not published; ours are drawn with seed 0.",
        ),
    ),
    _figure(
        "5", "Reliability diagrams of CS-KD against five baselines, CIFAR-100", "reliability_against",
        *_entries(_BASELINES, ("ResNet-18",), ("CIFAR-100",)),
        notes=("The number of bins is not stated: 20, as for the ECE.",),
    ),
    _figure(
        "6", "Predictive distributions on commonly misclassified images, TinyImageNet", "distributions",
        *_entries(_PAIR, ("ResNet-18",), ("TinyImageNet",)),
        notes=("Which images is not stated: those with the largest mean confidence of both networks are shown.",),
    ),
    *(
        _figure(
            number, f"Log-probabilities on commonly misclassified images, {dataset}", "histograms",
            *_entries(_PAIR, ("ResNet-18",), (dataset,)), notes=_BINS,
        )
        for number, dataset in zip(("7", "8", "9", "10"), _ALL[1:], strict=True)
    ),
)  # fmt: skip

ARTEFACTS = (*_TABLES, *_FIGURES)
