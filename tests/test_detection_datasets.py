"""Detection sets: what is there is counted, what is not is named; the digits are what they say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from detection.config import load_config
from detection.datasets import PUBLISHED, Size, check_datasets, missing, size_of
from detection.digits import CLASSES, SIDE, _paste, make_digits
from skd_plugins import SkdError
from skd_plugins.data.datasets.digits import digits

NAME, OTHER = "a_set_of_the_tests", "another_set_of_the_tests"
SOUND = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 1, "name": "x"}],
}


def box(**changes: object) -> dict[str, Any]:
    return {"annotations": [SOUND["annotations"][0] | changes]}


@pytest.fixture(scope="session")
def digits_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("detection") / "digits")


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Any]:
    def register(content: object, name: str = NAME) -> None:
        path = tmp_path / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        (tmp_path / "1.jpg").touch()
        register_coco_instances(name, {}, str(path), str(tmp_path))

    yield register
    for name in {NAME, OTHER} & set(DatasetCatalog.list()):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_sizes_are_counted_as_detectron2_filters(register: Any) -> None:
    boxes = [{"image_id": 1, "iscrowd": 0}, {"image_id": 1, "iscrowd": 0}, {"image_id": 2, "iscrowd": 1},
             {"image_id": 4}, {"image_id": 99, "iscrowd": 0}]  # fmt: skip
    boxes = [SOUND["annotations"][0] | {"id": n} | box for n, box in enumerate(boxes)]
    register(SOUND | {"annotations": boxes, "images": [SOUND["images"][0] | {"id": n} for n in (1, 2, 3, 4)]})
    assert size_of(NAME) == Size(images=4, annotated=2)  # image 2 has a crowd only, 3 nothing, 99 is not there


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("{", "is not a COCO annotation file"),
        ({"images": []}, "images"),
        ({"annotations": [SOUND["annotations"][0] | {"bbox": [1, 2, 3]}]}, "annotations.0.bbox"),
        ({"annotations": [SOUND["annotations"][0] | {"bbox": [1, 2, 3, "NaN"]}]}, "annotations.0.bbox.3"),
        ({"annotations": [SOUND["annotations"][0] | {"iscrowd": 3}]}, "annotations.0.iscrowd"),
        ({"annotations": [SOUND["annotations"][0] | {"category_id": 7}]}, "annotation 5 has the category 7, which is"),
        ({"annotations": 2 * SOUND["annotations"]}, "an id of annotations is there twice"),
        (box(category_id="1"), "annotations.0.category_id.int: Input should be a valid integer"),
        ({"images": [SOUND["images"][0] | {"id": "1"}]}, "images.0.id.int: Input should be a valid integer"),
        (box(segmentation={"counts": [9, 72]}), "annotation 5 has a run-length mask without size or counts"),
        (box(segmentation=[[1, 2, 3, 4]]), "annotation 5 has no polygon of three points"),
    ],
)
def test_what_detectron2_would_trip_over_is_named(change: Any, reason: str, register: Any) -> None:
    register(change if isinstance(change, str) else SOUND | change)
    with pytest.raises(SkdError, match=rf"{NAME}\.json.*{reason}"):
        size_of(NAME)


@pytest.mark.parametrize(
    ("train", "val", "reason"),
    [
        ({"categories": [{"id": n, "name": str(n)} for n in range(3)]}, {}, "has 3 classes, but MODEL.ROI_HEADS.NUM_"),
        ({}, {"categories": [{"id": 1, "name": "y"}]}, f"{OTHER} has the class 'y' where {NAME} has 'x'"),
        ({}, box(), rf"{OTHER}\.json: annotation 5 has no area, which the evaluation needs"),
        (
            {},
            box(id=0, area=12, iscrowd=0),
            rf"{OTHER}\.json: annotation 0 has the id 0, which COCO's evaluation takes",
        ),
        ({}, {"images": [SOUND["images"][0] | {"file_name": "2.jpg"}]}, r"2\.jpg, which .* lists, is not there"),
        (box(bbox=[1, 2, 0, 0]), {}, rf"no box of .*{NAME}\.json has an area inside its image"),
        (box(bbox=[9, 2, 3, 3]), {}, rf"no box of .*{NAME}\.json has an area inside its image"),
    ],
)
def test_both_sets_are_checked_before_the_training(train: Any, val: Any, reason: str, register: Any) -> None:
    cfg = load_config("digits_demo", ["MODEL.ROI_HEADS.NUM_CLASSES", "1"])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), (OTHER,)
    register(SOUND | train)
    register(SOUND | box(area=12, iscrowd=0) | val, OTHER)
    with pytest.raises(SkdError, match=reason):
        check_datasets(cfg)
    content = json.dumps(SOUND | box(area=12, iscrowd=0))
    for name in (NAME, OTHER):
        Path(MetadataCatalog.get(name).json_file).write_text(content)
    check_datasets(cfg)
    assert len(DatasetCatalog.get(NAME)[0]["annotations"]) == 1  # detectron2 reads what we let through


@pytest.mark.parametrize(
    ("train", "val", "reason"),
    [
        (
            {},
            box(segmentation=[[1, 2, 4, 2, 4, 6]]),
            rf"{NAME}\.json: annotation 5 has no segmentation, which MODEL.MASK",
        ),
        (box(segmentation=[[1, 2, 4, 2, 4, 6]]), box(iscrowd=1), rf"{OTHER}\.json: annotation 5 has no segmentation"),
        (box(segmentation={"size": [9, 9], "counts": [9, 72]}), {}, r"run-length mask; set INPUT.MASK_FORMAT bitmask"),
    ],
)
def test_masks_are_there_for_a_detector_of_masks(train: Any, val: Any, reason: str, register: Any) -> None:
    cfg = load_config("digits_demo", ["MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.MASK_ON", "True"])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), (OTHER,)
    whole = {"annotations": [SOUND["annotations"][0] | {"area": 12, "iscrowd": 0}]}
    for name, change in ((NAME, train), (OTHER, val)):
        annotation = whole["annotations"][0] | change.get("annotations", [{}])[0]
        register(SOUND | {"annotations": [annotation]}, name)
    with pytest.raises(SkdError, match=reason):
        check_datasets(cfg)
    cfg.MODEL.MASK_ON = False
    check_datasets(cfg)


def test_a_name_of_cocos_is_not_for_other_classes(register: Any) -> None:
    register(SOUND)
    MetadataCatalog.get(NAME).thing_classes = ["x", "y"]
    with pytest.raises(SkdError, match=r"registered with 2 classes, but .* has 1 \(x\); give it a name of its own"):
        check_datasets(load_config("digits_demo", ["DATASETS.TRAIN", f"('{NAME}',)"]))


def test_missing_data_say_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = MetadataCatalog.get("coco_2017_train").json_file
    if Path(path).exists():
        pytest.skip("COCO is here")
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    text = missing("coco_2017_train") or ""
    for part in (str(Path(path).absolute()), "DETECTRON2_DATASETS is /somewhere", "cocodataset.org", "train2017.zip"):
        assert part in text
    assert size_of("coco_2017_train") == PUBLISHED["coco_2017_train"]
    with pytest.raises(SkdError, match=re.escape(text)):
        check_datasets(load_config("faster_rcnn_ce"))
    with pytest.raises(
        SkdError, match="unknown dataset 'coco_2017_trian'; did you mean 'coco_2017_train'.*--train FILE"
    ):
        size_of("coco_2017_trian")
    with pytest.raises(SkdError, match="lvis"):  # its size is nobody's to guess
        size_of("lvis_v1_train")


def test_digits_are_whole_and_exactly_boxed(digits_set: Path) -> None:
    for half, count in (("train", 400), ("val", 100)):
        content = json.loads((digits_set / f"{half}.json").read_text())
        assert [category["name"] for category in content["categories"]] == CLASSES
        assert len(content["images"]) == count
        by_image: dict[int, list[dict[str, Any]]] = {}
        for box in content["annotations"]:
            by_image.setdefault(box["image_id"], []).append(box)
        assert len(by_image) == count
        labels = [box["category_id"] for box in content["annotations"]]
        assert sorted(set(labels)) == list(range(1, 11))
        assert min(np.bincount(labels)[1:]) > 0.05 * len(labels)
        for boxes in by_image.values():
            corners = np.array([box["bbox"] for box in boxes])
            assert (corners[:, :2] >= 0).all()
            assert (corners[:, :2] + corners[:, 2:] <= SIDE).all()
            for index, (left, top, width, height) in enumerate(corners):
                assert boxes[index]["area"] == width * height
                for other in corners[:index]:
                    apart = left >= other[0] + other[2] or other[0] >= left + width
                    assert apart or top >= other[1] + other[3] or other[1] >= top + height


def test_halves_share_no_digit_and_the_set_is_always_the_same(digits_set: Path, tmp_path: Path) -> None:
    train, val = digits(True), digits(False)
    seen = {train.load(index).tobytes() for index in range(len(train.targets))}
    assert not any(val.load(index).tobytes() in seen for index in range(len(val.targets)))
    again = make_digits(tmp_path / "again")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 502
    assert all((again / file).read_bytes() == (digits_set / file).read_bytes() for file in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".again.lock", "again"]


@pytest.mark.parametrize("seed", range(20))
def test_ink_is_inside_the_box_and_touches_its_sides(seed: int) -> None:
    source = digits(True)
    picture = np.full((SIDE, SIDE, 3), 20, np.uint8)
    box = _paste(picture, source.load(seed * 7)[..., 0], [], np.random.default_rng(seed))
    assert box is not None
    ink = (picture != 20).any(-1)
    rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
    left, top, right, bottom = box
    assert left <= columns[0] <= columns[-1] < right
    assert top <= rows[0] <= rows[-1] < bottom
    strong = (picture > 60).any(-1)
    rows, columns = np.nonzero(strong.any(1))[0], np.nonzero(strong.any(0))[0]
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == box
