"""Registered detection sets, checked before anything expensive starts."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from skd_plugins.common.errors import SkdError, unknown
from skd_plugins.common.typed import first_problem

# For a plan without the data: the published numbers of images, and of images with at least one non-crowd box.
PUBLISHED = {"coco_2017_train": (118_287, 117_266), "coco_2017_val": (5_000, 4_952)}
_COCO = (
    "get train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download, unpack "
    "them into one folder coco/ and set DETECTRON2_DATASETS to the folder above it"
)


@dataclass(frozen=True)
class Size:
    """How many images a set has."""

    images: int
    annotated: int  # with at least one non-crowd box; detectron2 trains on these
    published: bool = False  # taken from `PUBLISHED`, because the data are not here

    def training(self, cfg: CfgNode) -> int:
        """Images of an epoch under this configuration."""
        return self.annotated if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else self.images


def missing(name: str) -> str | None:
    """Which part of the set is missing and how to get it; None when the set is complete."""
    if name not in DatasetCatalog.list():
        raise unknown("dataset", name, DatasetCatalog.list())
    about = MetadataCatalog.get(name)
    for kind in ("json_file", "image_root"):
        path = about.get(kind)
        if path and not Path(path).exists():
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
        return Size(*PUBLISHED[name], published=True)
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        records = DatasetCatalog.get(name)
        annotated = sum(any(not box.get("iscrowd", 0) for box in record.get("annotations", [])) for record in records)
        return Size(len(records), annotated)
    content = _read_coco(Path(path))
    boxes = {box["image_id"] for box in content["annotations"] if not box.get("iscrowd", 0)}
    return Size(len(content["images"]), len(boxes & {image["id"] for image in content["images"]}))


class _Image(TypedDict):
    id: int
    file_name: Annotated[str, Field(min_length=1)]
    height: PositiveInt
    width: PositiveInt


class _Box(TypedDict):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    iscrowd: NotRequired[Literal[0, 1]]
    segmentation: NotRequired[list[list[FiniteFloat]] | dict[str, Any]]


class _Category(TypedDict):
    id: int
    name: str


class _Coco(TypedDict):
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: list[_Box]
    categories: Annotated[list[_Category], Field(min_length=1)]


def _read_coco(path: Path) -> _Coco:
    """An annotation file that detectron2 can read completely. detectron2 clips boxes that leave their image."""
    try:
        content = TypeAdapter(_Coco).validate_json(path.read_bytes())
    except ValidationError as error:
        raise SkdError(f"{path} is not a COCO annotation file: {first_problem(error)}") from None
    except OSError as error:
        raise SkdError(f"{path} can't be read: {error}") from None
    ids = {}
    for part in ("images", "annotations", "categories"):
        all_ids = [entry["id"] for entry in content[part]]
        ids[part] = set(all_ids)
        if len(ids[part]) < len(all_ids):
            raise SkdError(f"{path} is not a COCO annotation file: an id of {part} is there twice")
    for box in content["annotations"]:
        if box["category_id"] not in ids["categories"] and box["image_id"] in ids["images"]:
            raise SkdError(f"{path}: annotation {box['id']} has the category {box['category_id']}, which is not listed")
    return content


def check_datasets(cfg: CfgNode) -> None:
    """Raises `SkdError` unless the sets are there and have as many classes as the detector."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        absent = missing(name)
        if absent:
            raise SkdError(absent)
        about = MetadataCatalog.get(name)
        classes = about.get("thing_classes") or []
        heads = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if classes and len(classes) != heads:
            raise SkdError(
                f"dataset {name} has {len(classes)} classes, but MODEL.ROI_HEADS.NUM_CLASSES is {heads}; set it to "
                f"{len(classes)}"
            )
