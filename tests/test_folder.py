"""Image folders: what is read, and how a request becomes an image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Pixels
from PIL import Image
from torchvision.transforms import functional as F

from skd_plugins.common.errors import SkdError
from skd_plugins.data.augment import Augmentation, training_boxes
from skd_plugins.data.images import FolderImages
from skd_plugins.data.sources import FolderData, image_folder, read_rgb


def images_of(folder: Path, *, clean: tuple[bool, ...] = (False, False), seed: int = 0, **spec: object) -> FolderImages:
    return FolderImages(FolderData(folder), Augmentation(**({"image_size": 48} | spec)), seed=seed, clean=clean)


def test_the_order_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Numbers in names count, as timm sorts them; names that tie stand in the order of their code points."""
    for name in ("b", "a", "A", "01", "1", "10", "9"):
        (tmp_path / name).mkdir()
        for file in ("x10.png", "x1.png", "x01.PNG"):
            Image.new("RGB", (8, 8)).save(tmp_path / name / file)
    data = FolderData(tmp_path)
    assert data.classes == ["01", "1", "9", "10", "A", "a", "b"]
    assert [Path(data.samples[index][0]).name for index in range(3)] == ["x01.PNG", "x1.png", "x10.png"]
    assert data.name_of(3) == f"{tmp_path / '1' / 'x01.PNG'} (index 3)"


def test_what_is_an_image(tmp_path: Path) -> None:
    """torchvision's types; what is hidden is skipped, and no class is lost without a word."""
    for name, file in {"ant": "a.webp", "bee": "b.tiff", "cow": "c.bmp"}.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (0, 128, 255)).save(tmp_path / name / file, lossless=True)
    for hidden in (".ipynb_checkpoints/x.png", "__MACOSX/x.png", "ant/._a.jpg"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"")
    data, source = FolderData(tmp_path), image_folder(tmp_path)
    assert (data.classes, data.targets.tolist()) == (["ant", "bee", "cow"], [0, 1, 2])
    assert [source.load(index)[0, 0].tolist() for index in range(3)] == [[0, 128, 255]] * 3
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "d.heic").touch()
    with pytest.raises(SkdError, match=r"dog has \.heic; images are \.jpg .*Convert its files, or move it away"):
        FolderData(tmp_path)


def test_pixels_of_other_modes(tmp_path: Path) -> None:
    grey = np.array([[0, 256, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    assert np.asarray(read_rgb(tmp_path / "grey16.png"))[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[[9, 8, 7, 0]]], np.uint8), "RGBA").save(tmp_path / "clear.png")
    assert np.asarray(read_rgb(tmp_path / "clear.png")).tolist() == [[[9, 8, 7]]]
    ramp = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for name, picture in (("grey", ramp), ("palette", ramp.convert("RGB").quantize(64))):
        picture.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / f"{name}.png"))[..., 1], np.asarray(ramp))
    ramp.convert("CMYK").save(tmp_path / "print.jpg")
    assert read_rgb(tmp_path / "print.jpg").mode == "RGB"
    Image.fromarray(np.zeros((1, 1), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(SkdError, match="float.tiff has 32-bit numbers"):
        read_rgb(tmp_path / "float.tiff")


def test_wrong_folders(jpeg_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SkdError, match="nowhere is not a folder"):
        FolderData(tmp_path / "nowhere")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "notes.txt").touch()
    with pytest.raises(SkdError, match="should have one subfolder a class with images inside"):
        FolderData(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "ILSVRC2012_val_00000001.png")
    for read in (FolderData, image_folder):
        with pytest.raises(SkdError, match=r"should have one subfolder a class, but has images itself.*skd data im"):
            read(tmp_path)
    # timm's own data set would look for a validation half inside
    shutil.copytree(jpeg_folder, tmp_path / "eval" / "eval")
    shutil.copytree(jpeg_folder / "bee", tmp_path / "train" / "eval")
    shutil.copytree(jpeg_folder / "ant", tmp_path / "train" / "ant")
    assert FolderData(tmp_path / "train").classes == ["ant", "eval"]
    with pytest.raises(SkdError, match=r"has images deeper, in eval/ant; give the folder that holds the classes"):
        FolderData(tmp_path / "eval")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_training_image_is_torchvisions_resized_crop(
    png_folder: Path, photographs: list[Pixels], interpolation: str
) -> None:
    """Of the box that the generator gives, to the last bit."""
    images = images_of(png_folder, interpolation=interpolation, seed=3)
    for index, picture in enumerate(photographs):
        for epoch, position, segment in ((0, 5, 0), (2, 9, 1)):
            boxes, flips, _ = training_boxes(
                images.spec, np.array([picture.shape[0]]), np.array([picture.shape[1]]), seed=3, epoch=epoch,
                positions=np.array([position]), segments=np.array([segment]),
            )  # fmt: skip
            expected = F.resized_crop(
                Image.fromarray(picture), *boxes[0].tolist(), [48, 48], F.InterpolationMode(interpolation)
            )
            expected = F.hflip(expected) if flips[0] else expected
            got, reason = images.one(index, epoch, position, segment)
            assert reason == ""
            assert got.shape == (48, 48, 3)
            assert got.dtype == torch.uint8
            np.testing.assert_array_equal(got.numpy(), np.asarray(expected))


def test_shifted_image(png_folder: Path, photographs: list[Pixels]) -> None:
    """Moved by whole pixels of the output, with black where the image has ended."""
    images = images_of(png_folder, mode="shift", padding=6, hflip=0.0)
    moved = 0
    for position in range(12):
        picture = photographs[2]
        height, width = picture.shape[:2]
        boxes, _, _ = training_boxes(
            images.spec, np.array([height]), np.array([width]), seed=0, epoch=0,
            positions=np.array([position]), segments=np.array([0]),
        )  # fmt: skip
        top, left, *_ = boxes[0].tolist()
        padded = np.zeros((height + 60, width + 60, 3), np.uint8)
        padded[30:-30, 30:-30] = picture
        window = padded[30 + top : 30 + top + height, 30 + left : 30 + left + width]
        expected = np.asarray(Image.fromarray(window).resize((48, 48), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(images.one(2, 0, position, 0)[0].numpy(), expected)
        moved += (top, left) != (0, 0)
    assert moved > 8


def test_clean_segment_is_the_evaluation_transform(png_folder: Path, photographs: list[Pixels]) -> None:
    """Resize of the shorter side, then centre crop: torchvision's words, and timm's transform."""
    images = images_of(png_folder, clean=(False, True), crop_pct=0.75)
    for index, picture in enumerate(photographs):
        resized = F.resize(Image.fromarray(picture), 64, F.InterpolationMode.BILINEAR)  # 48 / 0.75
        expected = np.asarray(F.center_crop(resized, [48, 48]))
        got = [images.one(index, epoch, position, 1)[0].numpy() for epoch, position in ((0, 0), (1, 7))]
        np.testing.assert_array_equal(got[0], expected)
        np.testing.assert_array_equal(got[1], expected)  # whatever the epoch and position
