"""Registered detection sets, checked before anything expensive starts."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from skd_plugins.common.errors import SkdError, unknown
from skd_plugins.common.typed import first_problem

from .config import classes_key
from .trainer import fast_evaluation


class Size(NamedTuple):
    """How many images a set has, and how many of them have a box that is no crowd's; detectron2 trains on these."""

    images: int
    annotated: int


# For a plan without the data: the published numbers of images, and of images with at least one non-crowd box.
PUBLISHED = {"coco_2017_train": Size(118_287, 117_266), "coco_2017_val": Size(5_000, 4_952)}
_COCO = (
    "get train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download, unpack "
    "them into one folder coco/ and set DETECTRON2_DATASETS to the folder above it"
)
_OWN = "a set of your own: --train FILE IMAGES --val FILE IMAGES"
OWN = {"TRAIN": "own_train", "VAL": "own_val"}


def register_own(cfg: CfgNode) -> None:
    """Registers the sets of ``SKD.TRAIN`` and ``SKD.VAL``, in each process."""
    for half, name in OWN.items():
        if not cfg.SKD[half]:
            continue
        if name in DatasetCatalog.list():  # of another training in this process
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_instances(name, {}, *cfg.SKD[half])


def use_own(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Makes them the data of the configuration, and takes the number of classes from the annotations."""
    register_own(cfg)
    places = {"TRAIN": "TRAIN", "VAL": "TEST"}
    chosen = [half for half in places if cfg.SKD[half]]
    for half in chosen:
        cfg.DATASETS[places[half]] = (OWN[half],)
        if absent := missing(OWN[half]):
            raise SkdError(absent)
    key = classes_key(cfg)
    if chosen and f"MODEL.{key}.NUM_CLASSES" not in overrides:
        cfg.MODEL[key].NUM_CLASSES = len(_read_coco(Path(cfg.SKD[chosen[0]][0]))["categories"])


def missing(name: str) -> str | None:
    """Which part of the set is missing and how to get it; None when the set is complete."""
    if name not in DatasetCatalog.list():
        raise SkdError(f"{unknown('dataset', name, DatasetCatalog.list())} ({_OWN})")
    about = MetadataCatalog.get(name)
    for kind in ("json_file", "image_root"):
        path = about.get(kind)
        if path and not Path(path).exists():
            if name in OWN.values():
                return f"{path} does not exist"
            root = os.environ.get("DETECTRON2_DATASETS", "not set, so ./datasets is taken")
            advice = _COCO if name.startswith("coco_") else "put it there"
            looked = f"looked for {Path(path).absolute()} (DETECTRON2_DATASETS is {root})"
            return f"dataset {name} is not there: {looked}; {advice}"
    return None


def size_of(name: str) -> Size:
    """The numbers of images, counted if the set is there, else the published ones."""
    absent = missing(name)
    if absent:
        if name not in PUBLISHED:
            raise SkdError(absent)
        return PUBLISHED[name]
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        records = DatasetCatalog.get(name)
        annotated = sum(any(not box.get("iscrowd", 0) for box in record.get("annotations", [])) for record in records)
        return Size(len(records), annotated)
    content = _read_coco(Path(path))
    return Size(len(content["images"]), len({image["id"] for image, box in _boxes(content) if not box.get("iscrowd")}))


_Number = int | FiniteFloat  # some tools write 1.0 for 1


class _Image(TypedDict):
    id: _Number
    file_name: Annotated[str, Field(min_length=1)]
    height: PositiveInt | PositiveFloat
    width: PositiveInt | PositiveFloat


class _Box(TypedDict):
    id: _Number
    image_id: _Number
    category_id: _Number
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    iscrowd: NotRequired[Literal[0, 1]]
    segmentation: NotRequired[list[list[FiniteFloat]] | dict[str, Any]]
    area: NotRequired[Any]


class _Category(TypedDict):
    id: _Number
    name: str


class _Coco(TypedDict):
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: NotRequired[list[_Box]]
    categories: Annotated[list[_Category], Field(min_length=1)]


def _boxes(content: _Coco) -> Iterator[tuple[_Image, _Box]]:
    """Each annotation with its image. detectron2 leaves out those whose image is not listed."""
    images = {image["id"]: image for image in content["images"]}
    return ((images[box["image_id"]], box) for box in content["annotations"] if box["image_id"] in images)


def _read_coco(path: Path) -> _Coco:
    """An annotation file that detectron2 can read completely. detectron2 clips boxes that leave their image."""
    try:
        content = TypeAdapter(_Coco).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise SkdError(f"{path} is not a COCO annotation file: {first_problem(error)}") from None
    except OSError as error:
        raise SkdError(f"{path} can't be read: {error}") from None
    content.setdefault("annotations", [])  # COCO's test sets, which can only be predicted, have none
    for part in ("images", "annotations", "categories"):
        ids = [entry["id"] for entry in content[part]]
        if len(set(ids)) < len(ids):
            raise SkdError(f"{path} is not a COCO annotation file: an id of {part} is there twice")
    listed = set(ids)  # the categories'
    for _, box in _boxes(content):
        problem = _problem(box, listed)
        if problem:
            raise SkdError(f"{path}: annotation {box['id']} has {problem}")
    return content


def _problem(box: _Box, categories: set[_Number]) -> str:
    """What detectron2 would stop at, or leave the box out for; nothing if it takes the box."""
    if box["category_id"] not in categories:
        return f"the category {box['category_id']}, which is not listed"
    mask = box.get("segmentation") or None
    if isinstance(mask, dict) and not {"size", "counts"} <= mask.keys():
        return "a run-length mask without size or counts"
    if isinstance(mask, list) and not any(len(part) >= 6 and len(part) % 2 == 0 for part in mask):
        return "no polygon of three points, so detectron2 would leave its box out; remove its segmentation"
    return ""


def check_datasets(cfg: CfgNode) -> None:
    """Raises `SkdError` for what would stop the training or the evaluation, or spoil them silently."""
    head = classes_key(cfg)
    wanted: int = cfg.MODEL[head].NUM_CLASSES
    known: list[str] = []
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if absent := missing(name):
            raise SkdError(absent)
        classes = _checked_classes(cfg, name)
        if len(classes) != wanted:
            raise SkdError(
                f"dataset {name} has {len(classes)} classes, but MODEL.{head}.NUM_CLASSES is {wanted}; set it to "
                f"{len(classes)}"
            )
        known = known or classes
        if classes != known:  # detectron2 compares the numbers only
            own, first = next(pair for pair in zip(classes, known, strict=True) if pair[0] != pair[1])
            raise SkdError(
                f"dataset {name} has the class {own!r} where {(*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]} has "
                f"{first!r}; all sets list the same categories, in the order of their ids"
            )


def _checked_classes(cfg: CfgNode, name: str) -> list[str]:
    """The classes of a set, whose annotations and images have been checked."""
    about = MetadataCatalog.get(name)
    if about.get("image_root") is None:  # a function's; an evaluation gives it a json_file too
        DatasetCatalog.get(name)  # which may name the classes
        if not about.get("thing_classes"):
            raise SkdError(f"dataset {name} does not name its classes; set MetadataCatalog.get({name!r}).thing_classes")
        return list(about.thing_classes)
    path, content = Path(about.json_file), _read_coco(Path(about.json_file))
    classes = [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]
    registered = about.get("thing_classes", classes)
    if registered != classes:
        raise SkdError(
            f"dataset {name} is registered with {len(registered)} classes, but {path} has {len(classes)} "
            f"({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}); give it a name of its own ({_OWN})"
        )
    for image in content["images"]:
        file = os.path.join(about.image_root, image["file_name"])
        if not os.path.exists(file):
            raise SkdError(f"dataset {name}: {file}, which {path} lists, is not there")
    trained, evaluated = name in cfg.DATASETS.TRAIN, name in cfg.DATASETS.TEST
    needed = () if not evaluated else ("area",) if fast_evaluation() else ("area", "iscrowd")
    for _, box in _boxes(content):
        problem = _unfit(cfg, box, needed, learned=trained and not box.get("iscrowd"))
        if problem:
            raise SkdError(f"{path}: annotation {box['id']} has {problem}")
    boxes = [pair for pair in _boxes(content) if not pair[1].get("iscrowd")] if trained else []
    if boxes and not any(_inside(*pair) for pair in boxes):
        raise SkdError(f"no box of {path} has an area inside its image; bbox is [left, top, width, height] in pixels")
    return classes


def _unfit(cfg: CfgNode, box: _Box, needed: Sequence[str], *, learned: bool) -> str:
    """What this training or, with `needed` fields, this evaluation can't use; nothing if it can."""
    mask: Any = box.get("segmentation")
    if needed and box["id"] == 0:
        return "the id 0, which COCO's evaluation takes for none; count from 1"
    for field in needed:
        if not isinstance(box.get(field), int | float):
            return f"no {field}, which the evaluation needs"
    if cfg.MODEL.MASK_ON and not mask and (learned or needed):
        return "no segmentation, which MODEL.MASK_ON needs"
    if cfg.MODEL.MASK_ON and learned and isinstance(mask, dict) and cfg.INPUT.MASK_FORMAT == "polygon":
        return "a run-length mask; set INPUT.MASK_FORMAT bitmask"
    return ""


def _inside(image: _Image, box: _Box) -> bool:
    left, top, width, height = box["bbox"]
    return min(left + width, image["width"]) > max(left, 0) and min(top + height, image["height"]) > max(top, 0)
