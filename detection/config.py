"""Our keys in detectron2's configuration, and reading config files."""

import ast
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import IO, Any

import detectron2
import yaml
from detectron2.config import CfgNode, get_cfg

from skd_plugins.common.errors import SkdError, unknown

CONFIGS = Path(__file__).parent / "configs"
ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"  # PyPI's copy comes without it


def add_skd_config(cfg: CfgNode) -> None:
    """Adds our keys with their defaults to a detectron2 configuration, as detectron2's projects do.

    ``MODEL.TIMM``, for the registered backbones:

    * ``NAME``: timm's name or ``torchvision/NAME``; if empty, the name on the weights' card.
    * ``ARGS``: arguments of its constructor; if empty, those on the card.
    * ``WEIGHTS``: a run's folder, an exported ``.safetensors``, a ``.pth`` with a state dict, ``timm/NAME.TAG``,
      ``torchvision/NAME.WEIGHTS``, or the name of released weights (``skd weights list``); empty for random weights.
      Not read when ``MODEL.WEIGHTS`` names a whole detector.
    * ``NORM``: ``FrozenBN``, ``BN`` or ``SyncBN``.
    * ``OUT_FEATURES``: of ``res2`` to ``res5``.
    * ``CHECKPOINT_ACTIVATIONS``: compute the blocks' activations again in the backward pass instead of keeping them;
      ``BN`` then updates its statistics twice a step.

    ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN`` mean what they mean for detectron2's own ResNet; see
    `TimmFeatures` for networks that are none.

    ``MODEL.RETINANET.P6_IN_FEATURE``: what ``p6`` is made of, ``res5`` (detectron2's models) or ``p5``.

    ``MODEL.ROI_HEADS.SD_DROPOUT``: ``WEIGHT``, ``TEMPERATURE`` and ``DROP_RATE`` of `SDDropoutROIHeads`.

    ``SOLVER.OPTIMIZER``: ``SGD``, or ``ADAMW``, which needs another ``SKD.BASE_LR`` and ``SOLVER.WEIGHT_DECAY``.

    ``SKD``, for train_net.py:

    * ``TRAIN``, ``VAL``: a COCO annotation file and the folder of its images, for ``--train`` and ``--val``.
    * ``EPOCHS``: passes over the training images; 0 leaves ``SOLVER`` as it is.
    * ``DROPS``: where the learning rate is divided, as fractions of the training.
    * ``BASE_LR`` at a batch of ``REFERENCE_BATCH`` images; for another ``SOLVER.IMS_PER_BATCH`` it is scaled in
      proportion.
    * ``VISUALIZE``: validation images that are written as PNG with predictions and ground truth.
    * ``VISUALIZE_SCORE``: lowest score that is drawn.
    """
    timm = cfg.MODEL.TIMM = CfgNode()
    timm.NAME = ""
    timm.ARGS = CfgNode(new_allowed=True)
    timm.WEIGHTS = ""
    timm.NORM = "FrozenBN"
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    timm.CHECKPOINT_ACTIVATIONS = False

    cfg.MODEL.RETINANET.P6_IN_FEATURE = "res5"

    dropout = cfg.MODEL.ROI_HEADS.SD_DROPOUT = CfgNode()
    dropout.WEIGHT = 0.1
    dropout.TEMPERATURE = 3.0
    dropout.DROP_RATE = 0.5

    cfg.SOLVER.OPTIMIZER = "SGD"

    skd = cfg.SKD = CfgNode()
    skd.TRAIN, skd.VAL = [], []
    skd.EPOCHS = 0.0
    skd.DROPS = [2 / 3, 8 / 9]
    skd.BASE_LR = 0.02
    skd.REFERENCE_BATCH = 16
    skd.VISUALIZE = 8
    skd.VISUALIZE_SCORE = 0.5


def find_config(name: str) -> Path:
    """A config file: a path, or the name of one of ours with or without ``.yaml``, or of detectron2's model zoo."""
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml", ZOO / name):
        if path.is_file():
            return path
    raise unknown("config", name, [path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith("base")])


class _Yaml(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML, and the formulas in the anchor sizes of detectron2's RetinaNet, whose loader runs any code in a file."""

    def formula(self, node: yaml.SequenceNode) -> Any:
        """The value of ``[[x, x * 2**(1.0/3)] for x in [32, 64]]``; no functions, no attributes."""
        (text,) = self.construct_sequence(node)
        with suppress(SyntaxError, NameError):
            if all(isinstance(part, _ARITHMETIC) for part in ast.walk(ast.parse(text, mode="eval"))):
                return eval(text, {"__builtins__": {}})
        raise SkdError(
            f"{node.start_mark.name}: {text!r} is not a formula of numbers and lists; write the values themselves"
        )


_ARITHMETIC = (
    ast.Expression, ast.List, ast.ListComp, ast.comprehension, ast.Name, ast.Constant, ast.BinOp, ast.operator,
    ast.expr_context,
)  # fmt: skip
_Yaml.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _Yaml.formula)


class _File(CfgNode):  # type: ignore[misc]  # detectron2 has no types
    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        """The file with its formulas computed, and with the whole path of a ``_BASE_`` that is one of ours."""
        with super()._open_cfg(filename) as file:
            content = yaml.load(file, _Yaml) or {}
        if not isinstance(content, dict):
            raise SkdError(f"{filename}: keys and values are expected, as in the files of {CONFIGS}")
        base = content.get("_BASE_")
        if isinstance(base, str) and (CONFIGS / base).is_file():
            beside = Path(filename).parent / base
            content["_BASE_"] = str(beside if beside.is_file() and beside != Path(filename) else CONFIGS / base)
        return StringIO(yaml.safe_dump(content))


def uses_timm(cfg: CfgNode) -> bool:
    """Whether the backbone is one of ours."""
    return bool(cfg.MODEL.BACKBONE.NAME.startswith("build_timm_"))


def classes_key(cfg: CfgNode) -> str:
    """Where the detector's number of classes stands, under ``MODEL``."""
    return "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"


def load_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The defaults of detectron2 and ours, then the file, then the overrides ``KEY VALUE KEY VALUE ...``.

    A network in ``MODEL.TIMM`` takes the place of detectron2's ResNet in a file written for that. If the file has no
    ``SKD``, learning rate and drops for a number of epochs are those of its ``SOLVER``.
    """
    path = find_config(name)
    cfg = get_cfg()
    add_skd_config(cfg)
    try:
        loaded = CfgNode(_File.load_yaml_with_base(str(path)))
        if loaded.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise SkdError(f"{path} has VERSION {loaded.VERSION}; detectron2's current one is {cfg.VERSION}")
        _let_integers_be_floats(cfg, loaded)
        cfg.merge_from_other_cfg(loaded)
        if "SKD" not in loaded:
            solver = cfg.SOLVER
            cfg.SKD.DROPS = [step / solver.MAX_ITER for step in solver.STEPS if step < solver.MAX_ITER]
            cfg.SKD.BASE_LR, cfg.SKD.REFERENCE_BATCH = solver.BASE_LR, solver.IMS_PER_BATCH
    except (AssertionError, KeyError, ValueError, OSError, yaml.YAMLError) as error:
        raise SkdError(f"{path}: {_reason(error)}") from None
    merge_overrides(cfg, overrides)
    lost = [key for key in ("MAX_ITER", "STEPS", "BASE_LR") if key in loaded.get("SOLVER", {})]
    if lost and cfg.SKD.EPOCHS and "SKD" in loaded and "GLOBAL" not in loaded:  # which only a saved one has
        raise SkdError(
            f"{path}: SKD.EPOCHS {cfg.SKD.EPOCHS:g} would replace SOLVER.{lost[0]}; set SKD.EPOCHS 0 to keep SOLVER, "
            "or SKD.EPOCHS, DROPS and BASE_LR in its place"
        )
    if (cfg.MODEL.TIMM.NAME or cfg.MODEL.TIMM.WEIGHTS) and cfg.MODEL.BACKBONE.NAME in _OURS:
        _use_timm(cfg)
        merge_overrides(cfg, overrides)
    if cfg.OUTPUT_DIR == "./output":  # detectron2's default, which two configs must not share
        cfg.OUTPUT_DIR = f"runs/detection/{path.stem}"
    return cfg


_OURS = {
    "build_resnet_backbone": "build_timm_resnet_backbone",
    "build_resnet_fpn_backbone": "build_timm_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_timm_resnet_retinanet_fpn_backbone",
}


def _use_timm(cfg: CfgNode) -> None:
    model = cfg.MODEL
    model.BACKBONE.NAME = _OURS[model.BACKBONE.NAME]
    model.TIMM.OUT_FEATURES, model.TIMM.NORM = list(model.RESNETS.OUT_FEATURES), model.RESNETS.NORM
    if model.ROI_HEADS.NAME == "Res5ROIHeads":
        model.ROI_HEADS.NAME = "TimmRes5ROIHeads"
    if model.WEIGHTS.startswith("detectron2://ImageNetPretrained"):
        model.WEIGHTS = ""
        usual = get_cfg()  # the file's pixels are of its weights
        model.PIXEL_MEAN, model.PIXEL_STD = usual.MODEL.PIXEL_MEAN, usual.MODEL.PIXEL_STD
        cfg.INPUT.FORMAT = usual.INPUT.FORMAT


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merges ``KEY VALUE KEY VALUE ...``."""
    flags = [text for text in overrides if text.startswith("--")]
    if flags:
        raise SkdError(f"{flags[0]} stands among the overrides; options come before the first KEY VALUE")
    if len(overrides) % 2:
        raise SkdError(f"overrides are pairs of KEY and VALUE; {overrides[-1]!r} has no partner")
    known = _flat(cfg)
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in known and not key.startswith("MODEL.TIMM.ARGS."):  # which takes any argument of timm's
            raise unknown("config key", key, known)
        try:
            change = CfgNode._decode_cfg_value(value)
            for name in reversed(key.split(".")):
                change = CfgNode({name: change})
            _let_integers_be_floats(cfg, change)
            cfg.merge_from_other_cfg(change)
        except (AssertionError, KeyError, ValueError) as error:
            raise SkdError(f"{key} {value}: {_reason(error)}") from None


def _let_integers_be_floats(cfg: CfgNode, change: CfgNode) -> None:
    """yacs refuses 7 for a number that is 12.0 by default."""
    for name, value in change.items():
        default = cfg.get(name)
        if isinstance(value, CfgNode) and isinstance(default, CfgNode):
            _let_integers_be_floats(default, value)
        elif isinstance(default, float) and type(value) is int:
            change[name] = float(value)


def _flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """All keys, those of nodes too."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= {f"{prefix}{name}": value} | (_flat(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {})
    return found


def differences(old: CfgNode, new: CfgNode) -> list[str]:
    """What a resumed training changes, in words; places, workers and the evaluation may differ."""
    before = _flat(old)
    return [
        f"{key} was {before.get(key)}, now {value}" for key, value in _flat(new).items()
        if not isinstance(value, CfgNode) and not key.startswith(_FREE) and plain(before.get(key)) != plain(value)
    ]  # fmt: skip


_FREE = ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "TEST.", "SOLVER.CHECKPOINT_PERIOD")


def _reason(error: Exception) -> str:
    # A KeyError's text is its argument's repr.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if text.startswith("Type mismatch (<class 'tuple'>"):
        text += '; write a list: [1, 2], or ["name"]'
    return " ".join(text.split()) or type(error).__name__


def plain(node: Any) -> Any:
    """A configuration node as plain dictionaries and lists."""
    if isinstance(node, CfgNode):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node
