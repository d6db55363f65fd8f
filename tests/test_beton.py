"""Reading `.beton` files: agreement with FFCV itself, and damage of every kind."""

import gc
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Pixels, overwrite
from faults.common import end, environment, ranked, start

from skd_plugins import PairBatchSampler
from skd_plugins.common.errors import SkdError
from skd_plugins.data.augment import Augmentation, center_boxes
from skd_plugins.data.beton.file import _FIELD, _FIELD_TYPES, _HEADER, BetonFile

Copy = Callable[..., Path]
FILES = ["beton", "raw_beton", "mixed_beton"]


def ffcv_writes(path: Path, samples: list[Any], **fields: Any) -> Path:
    """A file as other people write them: by FFCV alone, with the smallest page and no JSON beside it."""
    from ffcv import fields as kinds
    from ffcv.writer import DatasetWriter

    made = {name: getattr(kinds, f"{kind}Field")(**options) for name, (kind, options) in fields.items()}
    DatasetWriter(str(path), made, page_size=1 << 21, num_workers=1).from_indexed_dataset(samples)
    return path


@pytest.fixture(scope="session")
def foreign(photographs: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label first, and one more field."""
    samples = [(index % 3, index / 7, image) for index, image in enumerate(photographs)]
    smart = {"write_mode": "smart", "smart_threshold": 30_000}
    path = tmp_path_factory.mktemp("foreign") / "train.beton"
    return ffcv_writes(path, samples, label=("Int", {}), weight=("Float", {}), image=("RGBImage", smart))


def test_a_worker_process_gets_the_path_only(raw_beton: Path) -> None:
    """Where processes are not forked, the file would be sent along."""
    sent = pickle.dumps(BetonFile(raw_beton))
    assert len(sent) < 1000 + len(str(raw_beton))
    assert pickle.loads(sent).fingerprint() == BetonFile(raw_beton).fingerprint()


@pytest.mark.parametrize("name", [*FILES, "foreign"])
def test_agrees_with_ffcvs_reader(name: str, request: pytest.FixtureRequest) -> None:
    from ffcv.reader import Reader

    path = request.getfixturevalue(name)
    ours, theirs = BetonFile(path), Reader(str(path))
    names = theirs.field_names
    images, labels = theirs.metadata[f"f{names.index('image')}"], theirs.metadata[f"f{names.index('label')}"]
    assert len(ours) == theirs.num_samples == sum(CLASSES.values())
    assert ours.targets.tolist() == labels.tolist()
    assert ours.heights.tolist() == images["height"].tolist()
    assert ours.widths.tolist() == images["width"].tolist()
    assert ours._modes.tolist() == images["mode"].tolist()
    assert ours._pointers.tolist() == images["data_ptr"].tolist()
    sizes = {int(row["sample_id"]): int(row["size"]) for row in theirs.alloc_table}
    assert ours._sizes.tolist() == [sizes[i] for i in range(len(ours))]
    modes = {"beton": {0}, "raw_beton": {1}}.get(name, {0, 1})
    assert set(ours._modes.tolist()) == modes  # else the test would not see what it is meant to
    assert ours.classes == (None if name == "foreign" else list(CLASSES))


def crops(data: BetonFile, size: int = 32) -> list[Pixels | str]:
    """Each image's centre crop, or why there is none."""
    boxes = center_boxes(Augmentation(image_size=size), data.heights, data.widths)
    result: list[Pixels | str] = []
    for index, box in enumerate(boxes):
        out = np.full((size, size, 3), 7, np.uint8)
        result.append(data.crop(index, box, False, out) or out)
    return result


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_ffcv_gives_the_same_centre_crops(mixed_beton: Path, foreign: Path) -> None:
    """To the last bit: the same C library, the same boxes."""
    import torch
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.fields.rgb_image import get_center_crop
    from ffcv.loader import Loader, OrderOption

    for path in (mixed_beton, foreign):
        pipelines = {"image": [CenterCropRGBImageDecoder((40, 40), ratio=0.875)], "label": [IntDecoder()]}
        loader = Loader(
            str(path), batch_size=8, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
            pipelines=pipelines | ({"weight": None} if path == foreign else {}),
        )  # fmt: skip
        names = [name for name in loader.reader.field_names if name != "weight"]
        batches = [dict(zip(names, batch, strict=True)) for batch in loader]
        images = np.concatenate([np.array(batch["image"]) for batch in batches])
        labels = np.concatenate([np.array(batch["label"])[:, 0] for batch in batches])
        data = BetonFile(path)
        np.testing.assert_array_equal(np.stack(crops(data, 40)), images)
        assert data.targets.tolist() == labels.tolist()
    del loader, batches
    gc.collect()  # numba's finalisers complain (to nobody) when others' tests trigger them
    torch.set_num_threads(1)
    sizes = np.random.default_rng(0).integers(1, 600, (500, 2))
    for ratio in (0.875, 0.5, 1.0, 224 / 256):
        boxes = center_boxes(Augmentation(crop_pct=ratio), *sizes.T)
        stock = [get_center_crop(height, width, None, ratio) for height, width in sizes.tolist()]
        assert boxes[boxes[:, 2] > 1].tolist() == [list(box) for box in stock if box[2] > 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_our_orders_in_stock_ffcv(digits_beton: Path) -> None:
    import torch
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader

    from skd_plugins.data.beton.ffcv_order import CoupleOrder, PairOrder

    path = digits_beton / "train.beton"

    def load(order: PairOrder, **options: Any) -> Loader:
        pipelines = {"image": [CenterCropRGBImageDecoder((8, 8), 1.0)], "label": [IntDecoder()]}
        options = {"batch_size": 20, "num_workers": 1, "seed": 3} | options
        return Loader(str(path), order=order, pipelines=pipelines, **options)

    targets = BetonFile(path).targets
    chosen = np.arange(5, len(targets), 2)
    loader = load(PairOrder(), indices=chosen)
    sampler = PairBatchSampler(targets[chosen], 10, seed=3)
    for _ in range(2):  # epochs
        labels = [batch[1].ravel().tolist() for batch in loader]
        assert labels == [targets[chosen][batch].tolist() for batch in sampler]
    for _, labels in load(CoupleOrder()):
        assert np.bincount(labels.ravel())[labels.ravel()].min() >= 2
    del loader
    gc.collect()
    torch.set_num_threads(1)
    with pytest.raises(SkdError, match="batch_size=21 does not divide into anchor . pair"):
        load(PairOrder(), batch_size=21)


_RANK = """
import sys
import numpy as np
import torch.distributed as dist
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader
from skd_plugins import SkdError
from skd_plugins.data.beton.ffcv_order import PairOrder
dist.init_process_group("gloo")
settings = dict(order=PairOrder(), distributed=True, num_workers=1, pipelines={"image": None, "label": [IntDecoder()]})
loader = Loader(sys.argv[1], 20, seed=3, **settings)
np.save(sys.argv[2] + str(dist.get_rank()), loader.traversal_order.sample_order(0))
try:
    Loader(sys.argv[1], 20, **settings)
except SkdError as error:
    assert "give each Loader the same seed=" in str(error)
else:
    raise AssertionError("each process drew its own seed")
dist.destroy_process_group()
"""


def test_our_orders_in_stock_ffcv_in_two_processes(digits_beton: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(_RANK)
    path = digits_beton / "train.beton"
    pair = [start(tmp_path / "rank.py", path, tmp_path / "order", env=environment(**own)) for own in ranked(2)]
    for done in [end(process, 240) for process in pair]:
        assert done.returncode == 0, done.stderr
    targets = BetonFile(path).targets
    for rank in range(2):
        wanted = PairBatchSampler(targets, 10, seed=3, rank=rank, world=2)
        np.testing.assert_array_equal(np.load(tmp_path / f"order{rank}.npy"), np.concatenate(list(wanted)))


# ------------------------------------------------------------------------------------------------------------- damage


def test_missing_and_wrong_files(tmp_path: Path, beton: Path, copied: Copy) -> None:
    with pytest.raises(SkdError, match=r"nowhere.beton does not exist; make it with: skd write"):
        BetonFile(tmp_path / "nowhere.beton")
    for content in (b"", b"\x02", b"\x00" * 100_000, b"not a beton" * 1000):
        path = tmp_path / "other.beton"
        path.write_bytes(content)
        with pytest.raises(SkdError, match=r"other.beton"):
            BetonFile(path)
    path = copied(beton, alone=True)
    overwrite(path, 0, b"\x03\x00")
    with pytest.raises(SkdError, match="not an FFCV file of format 2 .its version field is 3."):
        BetonFile(path)


@pytest.mark.parametrize("alone", [True, False])
def test_every_truncation_is_noticed(foreign: Path, beton: Path, copied: Copy, alone: bool) -> None:
    path = copied(foreign if alone else beton, alone=alone)
    size = path.stat().st_size
    # the index is at the end, so that nothing can be missing without being missed
    ends = [size - cut for cut in (1, 23, 24, 25, 24 * 16, size // 2)]
    for length in (*ends, 5000, 2200, 2119, 1500, 24, 23, 1, 0):
        with path.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(SkdError, match=r"train\.beton is truncated or damaged"):
            BetonFile(path)


IMAGE, INT = ("RGBImage", {}), ("Int", {})
FOREIGN = {
    "fields of types .2, 1, 3.": (
        {"image": IMAGE, "label": INT, "name": ("Bytes", {})},
        (1, np.zeros(3, np.uint8)),
    ),
    "fields of types .2, 1, 1.": ({"image": IMAGE, "label": INT, "id": INT}, (1, 7)),
    "fields of types .2.": ({"image": IMAGE}, ()),
    "image 0, with label -2, is impossible": ({"image": IMAGE, "label": INT}, (-2,)),
    "image 0, with label 16777216, is impossible": ({"image": IMAGE, "label": INT}, (1 << 24,)),
}


@pytest.mark.parametrize("message", FOREIGN)
def test_foreign_fields_and_labels_are_refused(message: str, photographs: list[Pixels], tmp_path: Path) -> None:
    fields, values = FOREIGN[message]
    path = ffcv_writes(tmp_path / "other.beton", [(photographs[0], *values)], **fields)
    with pytest.raises(SkdError, match=message):
        BetonFile(path)


def layout(path: Path) -> dict[str, int]:
    """Where the parts of a file begin, and the length of a row of its sample table."""
    header = np.fromfile(path, _HEADER, 1)[0]
    fields = np.fromfile(path, _FIELD, header["fields"], offset=_HEADER.itemsize)
    row = np.dtype([("", _FIELD_TYPES[kind]) for kind in fields["type"].tolist()], align=True).itemsize
    samples = _HEADER.itemsize + fields.nbytes
    end_of_samples = samples + row * int(header["samples"])
    return {
        "fields": _HEADER.itemsize, "samples": samples, "row": row, "end_of_samples": end_of_samples,
        "index": int(header["table"]), "end": path.stat().st_size,
    }  # fmt: skip


def test_misleading_tables_are_refused(foreign: Path, copied: Copy) -> None:
    """Sizes whose sum with the pointer wraps around would let the decoder read anywhere."""
    at = layout(foreign)
    for size in (2**63 - 1, 2**63, 2**64 - 1, 2**64 - 4096, 0, 2**40):
        path = copied(foreign, alone=True)
        overwrite(path, at["index"] + 16, size.to_bytes(8, "little"))
        with pytest.raises(SkdError, match="table entry of image 0, with label 0, is impossible"):
            BetonFile(path)
    # Image 0 pointing at image 1's pixels would be an image with another one's label.
    path, pointers = copied(foreign, alone=True), BetonFile(foreign)._pointers
    place = path.read_bytes().index(int(pointers[0]).to_bytes(8, "little"), at["samples"])
    assert place < at["samples"] + at["row"]
    overwrite(path, place, int(pointers[1]).to_bytes(8, "little"))
    with pytest.raises(SkdError, match="1 of its 16 images are not in its index"):
        BetonFile(path)


def test_a_size_that_is_not_the_jpegs_is_reported(foreign: Path, copied: Copy) -> None:
    """The decoder would fill a part of the image, or scale it, and say that all is well."""
    data, path = BetonFile(foreign), copied(foreign, alone=True)
    jpeg = int(np.flatnonzero(data._modes == 0)[0])
    place = layout(path)["samples"] + layout(path)["row"] * jpeg
    entry = path.read_bytes()[place : place + layout(path)["row"]]
    size = int(data.widths[jpeg]).to_bytes(2, "little") + int(data.heights[jpeg]).to_bytes(2, "little")
    overwrite(path, place + entry.index(size), (60_000).to_bytes(2, "little") * 2)
    got = crops(BetonFile(path))
    assert got[jpeg] == "its size is not the one in the table"
    assert [isinstance(crop, str) for crop in got] == [index == jpeg for index in range(len(got))]


def test_description_must_fit(beton: Path, raw_beton: Path, copied: Copy) -> None:
    path = copied(beton)
    description = path.with_name(path.name + ".json")
    original = json.loads(description.read_text())
    cases = {
        "{": r"train.beton.json is damaged",
        "[]": r"train.beton.json is damaged",
        "{}": r"train.beton.json is damaged .'tables_sha256'.",
        json.dumps(original | {"classes": 3}): r"train.beton.json is damaged",
        json.dumps(original | {"classes": ["ant"]}): "has the label 2, but train.beton.json names 1 classes",
        json.dumps(original | {"tables_sha256": "0" * 64}): "is not the file that train.beton.json describes",
    }
    for text, message in cases.items():
        description.write_text(text)
        with pytest.raises(SkdError, match=message):
            BetonFile(path)
    description.write_text(json.dumps(original))
    assert len(BetonFile(path)) == 16
    path.write_bytes(raw_beton.read_bytes())
    with pytest.raises(SkdError, match="is not the file that train.beton.json describes"):
        BetonFile(path)


# ------------------------------------------------------------------------------------------------------------- CRC-32


def test_missing_or_damaged_crc32_file(beton: Path, copied: Copy) -> None:
    path = copied(beton)
    checks = path.with_name(path.name + ".crc32")
    original = checks.read_bytes()
    assert len(original) == 4 * 16
    way_out = "write the data again, or delete train.beton.json to read it without checks"
    for content, message in {
        original[:-1]: "is damaged .its SHA-256 differs.",
        original[:-1] + bytes([original[-1] ^ 1]): "is damaged .its SHA-256 differs.",
        None: "is missing",
    }.items():
        checks.unlink()
        if content is not None:
            checks.write_bytes(content)
        with pytest.raises(SkdError, match=rf"train\.beton\.crc32 {message}; {way_out}"):
            BetonFile(path)
        checks.write_bytes(original)
    assert all(isinstance(crop, np.ndarray) for crop in crops(BetonFile(path)))
    path.with_name(path.name + ".json").unlink()
    assert BetonFile(path)._crc32 is None, "the way out"


@pytest.mark.parametrize("damage", ["zeroed", "flipped bit", "flipped byte"])
def test_every_damaged_image_is_noticed(mixed_beton: Path, copied: Copy, damage: str) -> None:
    path = copied(mixed_beton)
    data, draw = BetonFile(path), np.random.default_rng(0)
    for index in range(16):
        stored = np.array(data.stored(index))
        if damage == "zeroed":
            begin = int(draw.integers(max(len(stored) - 2000, 1)))
            changed = np.zeros_like(stored[begin : begin + 2000])
            assert stored[begin : begin + 2000].any()
        else:
            begin = int(draw.integers(len(stored)))
            mask = 1 << int(draw.integers(8)) if damage == "flipped bit" else int(draw.integers(1, 256))
            changed = stored[begin : begin + 1] ^ np.uint8(mask)
        overwrite(path, int(data._pointers[index]) + begin, changed.tobytes())
    assert crops(BetonFile(path)) == ["its bytes are not those that were written (CRC-32 differs)"] * 16
    # what the decoder alone notices: not enough, which is why there is a check sum
    assert sum(isinstance(crop, str) for crop in crops(BetonFile(copied(path, alone=True)))) < 16
