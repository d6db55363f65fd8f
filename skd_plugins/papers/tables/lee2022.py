"""The 17 artefacts of SD-Dropout (Lee et al. 2022): 14 tables and 3 figures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from .artefact import Detector, Training, figure, table
from .yun2020 import CE, LAST, cs_kd_args

# Data set and architecture as printed, and as in the names of the recipes.
_DATASETS = {"CIFAR-100": "cifar100", "CIFAR-100-C": "cifar100", "CUB-200-2011": "cub200", "Stanford Dogs": "dogs"}
_SUFFIX = {"ResNet-18": "", "ResNet-34": "_resnet34", "DenseNet-121": "_densenet121"}
# Checkpoints for Table 8 and Figure 4. They belong to every run, since these share theirs with Table 1.
_KEEP = {"save_every": 20}
_TRAINED: Mapping[str, Any] = {"weight": 1.0, "temperature": 3.0, "drop_rate": 0.5}


def training(method: str, architecture: str, dataset: str, setting: Mapping[str, str]) -> Training | Detector:
    """What is trained for a printed number; the setting varies SD-Dropout (Tables 9, 12, 14) and more (4, 13)."""
    if dataset == "ImageNet":
        return _imagenet(method)
    if dataset == "MS COCO":
        kind, half = "sdd" if method == "SD-Dropout" else "ce", "_0.5x" if setting["schedule"] == "0.5x" else ""
        return Detector(config=f"faster_rcnn_{kind}{half}", backbone=_imagenet(method))
    name = _DATASETS[dataset]
    changes: dict[str, Any]
    if method == "SD-Dropout":
        changes = _varied(setting)
    elif method.endswith("+SD-Dropout"):
        base = _plain(method.removesuffix("+SD-Dropout"), name)
        arguments = {**_TRAINED, "weight": 0.1, "base": base["method"], "base_args": base["method_args"]}
        changes = {"method_args": arguments}
    elif method.startswith("Dropout"):
        changes = {"method": "dropout", "method_args": {"drop_rate": 0.5, "samples": 2 if "†" in method else 1}}
    else:
        changes = {**_plain(method, name)}
    if "fc_layers" in setting:
        changes["model_args"] = {"classifier": "mlp"}
    return Training(recipe=f"sdd_{name}{_SUFFIX[architecture]}", changes={**_KEEP, **changes})


def _imagenet(method: str) -> Training:
    return Training(recipe=f"imagenet_r152_{'sddropout' if method == 'SD-Dropout' else 'ce'}")


def _plain(method: str, dataset: str) -> Mapping[str, Any]:
    return {
        "Cross-Entropy": CE,
        "CS-KD": {"method": "cs_kd", "method_args": cs_kd_args(dataset)},
        "DDGSD": {"method": "ddgsd", "method_args": {}},
        "BYOT": {"method": "byot", "method_args": {}},
        "DML": {"method": "dml", "method_args": {}},
        "LS": {"method": "label_smoothing", "method_args": {"label_smoothing": 0.1}},
    }[method]


def _varied(setting: Mapping[str, str]) -> dict[str, Any]:
    """SD-Dropout's arguments where a table varies them; its defaults are left out, so that the run is Table 1's."""
    if not setting.keys() & {"direction", "position", "beta"}:
        return {}
    arguments = dict(_TRAINED)
    if setting.get("direction", "both") != "both":
        arguments["direction"] = setting["direction"]
    if setting.get("position", "layer4") != "layer4":
        arguments["position"] = setting["position"]
    if "beta" in setting:
        arguments |= {"weight": float(setting["lambda"]), "drop_rate": float(setting["beta"])}
    return {"method_args": arguments}


_table, _figure = partial(table, training), partial(figure, training)
_GIVEN = (
    "Drop rate 0.5 and SD-Dropout's weight 1 alone are the paper's (appendix A.1); temperature 3, the divergence's "
    "reduction and weight 0.1 on another method are the authors' code's."
)
_TABLES = (
    _table(
        "sd-dropout/table1",
        "Accuracy with and without SD-Dropout",
        _GIVEN,
        "CS-KD's arguments are those of CS-KD's recipes; the paper states none.",
        LAST,
    ),
    _table(
        "sd-dropout/table2",
        "Calibration with and without SD-Dropout",
        "The data set is not named: CIFAR-100, the paper's default. 10 bins.",
        _GIVEN,
    ),
    _table(
        "sd-dropout/table3",
        "Accuracy on ImageNet",
        "Weight 0.1 as the paper says (the authors' script has 1.0); batch 32 is read as 32 a GPU on 8 of them.",
        "Whether three runs were averaged here too is not said: one.",
        columns=("metric",),
        seeds=1,
    ),
    _table(
        "sd-dropout/table4",
        "Object detection on COCO with the backbones of Table 3",
        "FPN or C4, optimiser, batch and image size are not stated: see detection/configs.",
        by=("schedule",),
        rows=("schedule", "method"),
        columns=("metric",),
        seeds=1,
    ),
    _table(
        "sd-dropout/table5",
        "Accuracy under FGSM",
        "The unit of epsilon = 0.2 is not said. The table has the attack of the authors' script (0.2 in normalised "
        "units, clipped as there); fgsm.json has FGSM in pixel units at 8/255 beside it.",
    ),
    _table(
        "sd-dropout/table6",
        "Accuracy under corruptions",
        "The severities are not said: the mean over all five.",
        rows=("corruption",),
        columns=("method",),
    ),
    _table(
        "sd-dropout/table7",
        "Out-of-distribution detection with ODIN",
        "ODIN's temperature and magnitude are 'the original paper's', which tuned them for other networks: here "
        "they are tuned for each network and set on 1,000 held-out images of both.",
        "The printed detection errors can't come from the stated formula at 95 % TPR: this is the least value over "
        "all thresholds.",
        "LSUN is the resized version; which one the paper has is not said.",
        rows=("ood",),
        columns=("metric", "method"),
    ),
    _table(
        "sd-dropout/table8",
        "Assumptions 1 and 2 during training",
        "Parameters, norm and what is averaged are not said: the L1 norm over the classifier's parameters, the "
        "mean over all pairs of image and class. Epoch 0 is the network before training.",
        rows=("epoch",),
        columns=("metric",),
    ),
    _table("sd-dropout/table9", "Directions of the divergence", _GIVEN, by=("direction",), rows=("direction",)),
    _table("sd-dropout/table10", "Other networks", _GIVEN, columns=("architecture",)),
    _table(
        "sd-dropout/table11",
        "Standard dropout",
        "Rate and place of the standard dropout are not said: 0.5, before the classifier. † 'equalises the number "
        "of training steps': the mean loss of two dropped samples of each image.",
    ),
    _table(
        "sd-dropout/table12",
        "Place of the dropout",
        "How maps are dropped is not said: element by element.",
        by=("position",),
        rows=("method", "position"),
    ),
    _table(
        "sd-dropout/table13",
        "Two fully connected layers",
        "The activation between the layers and the dropout's place are not said: ReLU; before the first.",
    ),
    _table(
        "sd-dropout/table14",
        "Sensitivity to drop rate and weight",
        "Beta is read as the probability to drop. Three runs, as section 4.1.1 says of all.",
        by=("beta", "lambda"),
        kind="grid",
        rows=("lambda",),
        columns=("beta",),
    ),
)
_FIGURES = (
    _figure(
        "sd-dropout/figure2",
        "Reliability with and without SD-Dropout",
        "reliability_pairs",
        _TABLES[1].methods,
        "Panels and data set are not named: the methods of Table 2 on CIFAR-100, 10 bins.",
    ),
    _figure(
        "sd-dropout/figure3",
        "Accuracy under FGSM with and without SD-Dropout",
        "fgsm_bars",
        _TABLES[0].methods,
        "Methods and data set are not named: those of Table 1 on CIFAR-100; the attack is Table 5's.",
        wanted=("fgsm",),
        seeds=3,
    ),
    _figure(
        "sd-dropout/figure4",
        "Gradients of the two directions of the divergence during training",
        "gradient_curves",
        ("SD-Dropout",),
        "Parameters, batches and how often are not said: all parameters, 8 test batches, every 20 epochs.",
        wanted=("gradients",),
    ),
)

ARTEFACTS = (*_TABLES, *_FIGURES)
