"""The 17 artefacts of CS-KD (Yun et al. 2020): 7 tables and 10 figures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from .artefact import Artefact, Training, figure, table

# Data set and architecture as printed, and as in the names of the recipes.
_DATASETS = {
    "CIFAR-100": "cifar100",
    "TinyImageNet": "tinyimagenet",
    "CUB-200-2011": "cub200",
    "Stanford Dogs": "dogs",
    "MIT67": "mit67",
    "CUB + Dogs + MIT67": "mixed",
}
_SUFFIX = {"ResNet-18": "", "PreAct ResNet-18": "", "DenseNet-121": "_densenet121", "ResNet-10": "_resnet10"}
_IMAGENET = {"ResNet-50": "r50", "ResNet-101": "r101", "ResNeXt-101-32x4d": "resnext101"}
CE: Mapping[str, Any] = {"method": "ce", "method_args": {}}


def cs_kd_args(dataset: str) -> dict[str, Any]:
    """CS-KD's arguments on a data set: those of the recipes, which are those of the authors' commands."""
    return {"weight": 1.0 if dataset in ("cifar100", "tinyimagenet") else 3.0, "temperature": 4.0, "pairing": "sampled"}


def training(method: str, architecture: str, dataset: str, setting: Mapping[str, str]) -> Training:
    """The training behind a printed number; Table 7's setting has ``T`` and ``lambda``."""
    if dataset == "ImageNet":
        return Training(recipe=f"imagenet_{_IMAGENET[architecture]}_{'ce' if method == 'Cross-entropy' else 'cskd'}")
    name = _DATASETS[dataset]
    own = cs_kd_args(name)
    kd = {"weight": 1.0, "temperature": 4.0}
    varied = {**own, "temperature": float(setting["T"]), "weight": float(setting["lambda"])} if "T" in setting else {}
    changes: dict[str, Mapping[str, Any]] = {
        "Cross-entropy": CE,
        "AdaCos": {"method": "adacos", "method_args": {}, "model_args": {"classifier": "cosine"}},
        "Virtual-softmax": {"method": "virtual_softmax", "method_args": {}},
        "Maximum-entropy": {"method": "max_entropy", "method_args": {"weight": 0.1}},
        "Label-smoothing": {"method": "label_smoothing", "method_args": {"label_smoothing": 0.1}},
        "CS-KD": {"method_args": varied} if varied else {},
        "CS-KD-E": {
            "method": "cs_kd_e",
            "method_args": {"weight": own["weight"], "temperature": own["temperature"], "clean_weight": 1.0},
        },
        "DDGSD": {"method": "ddgsd", "method_args": {}},
        "BYOT": {"method": "byot", "method_args": {}},
        "Mixup": {**CE, "mixup": 1.0},
        "Mixup + CS-KD": {"mixup": 1.0},
        "KD": {"method": "kd", "method_args": {"base": "ce", **kd}},
        "KD + CS-KD": {"method": "kd", "method_args": {"base": "cs_kd", "base_args": own, **kd}},
    }
    return Training(
        recipe=f"cskd_{name}{_SUFFIX[architecture]}",
        changes=changes[method],
        teacher=training("CS-KD", "DenseNet-121", dataset, {}) if method.startswith("KD") else None,
    )


_table, _figure = partial(table, training), partial(figure, training)
_CHOSEN = (
    "The paper chose T from {1, 4} and the weight from {1, 2, 3, 4} and does not say which: T = 4 everywhere, weight 1 "
    "on CIFAR-100 and TinyImageNet and 3 on the others, as in the authors' commands; no search is run."
)
_BASELINE_ARGS = (
    "The baselines' own settings are not in the paper: maximum entropy has weight 0.1, label smoothing 0.1 (Table 6's "
    "calibration of maximum entropy suggests a stronger one)."
)
LAST = "The network after the last epoch is evaluated, on the official test images."
_TABLES = (
    _table(
        "cs-kd/table1",
        "Top-1 error of output regularisers",
        _CHOSEN,
        _BASELINE_ARGS,
        LAST,
        rows=("architecture", "method"),
    ),
    _table(
        "cs-kd/table2",
        "Top-1 error of self-distillation methods",
        _CHOSEN,
        "DDGSD and BYOT have the settings of SD-Dropout's authors' code; this paper states none.",
    ),
    _table(
        "cs-kd/table3",
        "Top-1 error with Mixup",
        _CHOSEN,
        "Mixup's alpha is not stated: 1, as in the authors' code of Mixup for CIFAR.",
    ),
    _table(
        "cs-kd/table4",
        "Top-1 error of a ResNet-10 with a DenseNet-121 as teacher",
        _CHOSEN,
        "KD's temperature and weight are not stated: 4 and 1. The teacher is Table 1's DenseNet-121 with CS-KD of "
        "the same seed.",
    ),
    _table(
        "cs-kd/table5",
        "Top-1 error on ImageNet",
        "Learning rate, its steps, T and the weight are not stated for ImageNet: 0.1, divided by 10 after 30 and "
        "60 of 90 epochs, 4 and 1. The number of runs is not stated: one.",
        columns=("architecture",),
        seeds=1,
    ),
    _table(
        "cs-kd/table6",
        "Top-5 error, calibration and retrieval",
        _CHOSEN,
        _BASELINE_ARGS,
        "CS-KD-E's weight is not stated: 1; its un-augmented image is the test-time crop.",
        "AdaCos' printed ECE seems to be of cosines without the learned scale; ours is of the network's logits as "
        "they are used to predict.",
        rows=("metric", "method"),
    ),
    _table(
        "cs-kd/table7",
        "Sensitivity to temperature and weight",
        "The number of runs is not stated: one.",
        by=("T", "lambda"),
        kind="grid",
        rows=("T",),
        columns=("lambda",),
        seeds=1,
    ),
)
_PAIR = ("Cross-entropy", "CS-KD")
_CONFIDENT = "Which images is not stated: those with the largest mean confidence of both networks are shown."
_DISTRIBUTIONS = "Predictive distributions on commonly misclassified images"


def _histograms(number: int, dataset: str) -> Artefact:
    title = f"Log-probabilities on commonly misclassified images, {dataset}"
    return _figure(
        f"cs-kd/figure{number}", title, "histograms", _PAIR, "Bins and their range are not stated.", dataset=dataset
    )


_FIGURES = (
    _figure("cs-kd/figure1b", f"{_DISTRIBUTIONS}, CIFAR-100", "distributions", _PAIR, _CONFIDENT),
    _histograms(2, "CIFAR-100"),
    _figure(
        "cs-kd/figure3",
        "t-SNE of the features before the classifier, CIFAR-100",
        "tsne",
        ("Cross-entropy", "Virtual-softmax", "AdaCos", "CS-KD"),
        "Set, classes, points and perplexity are not stated: the first 10 classes' test images, 30.",
    ),
    _figure(
        "cs-kd/figure4",
        "Confusion of superclasses and error of the fine labels, mixed data set",
        "hierarchy",
        _PAIR,
        "The text gives one number: CS-KD takes 99.3 % of the birds for birds.",
        "Which 30 training images a label were drawn is not published; ours are drawn with seed 0.",
        dataset="CUB + Dogs + MIT67",
    ),
    _figure(
        "cs-kd/figure5",
        "Reliability diagrams of CS-KD against five baselines, CIFAR-100",
        "reliability_against",
        _TABLES[0].methods,
        "The number of bins is not stated: 20, as for the ECE.",
    ),
    _figure(
        "cs-kd/figure6", f"{_DISTRIBUTIONS}, TinyImageNet", "distributions", _PAIR, _CONFIDENT, dataset="TinyImageNet"
    ),
    _histograms(7, "TinyImageNet"),
    _histograms(8, "CUB-200-2011"),
    _histograms(9, "Stanford Dogs"),
    _histograms(10, "MIT67"),
)

ARTEFACTS = (*_TABLES, *_FIGURES)
