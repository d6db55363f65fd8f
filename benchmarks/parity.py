"""How far our `.beton` pixels are from timm's PIL pipeline in evaluation, and scaled decoding from full in training.

Evaluation is Resize(256), CenterCrop(224) of 48 crops of scikit-learn's two photographs (300 to 427 pixels high). The
network is torchvision's ResNet-18 with random weights, since no weights for photographs can be had offline; its
BatchNorm statistics are those of the images, and the mean of the logits over the images is subtracted, so that
predictions differ from image to image (how many classes are predicted is in the JSON).

Run: python benchmarks/parity.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import make_folder
from PIL import Image
from row import Row, report
from torch import Tensor

from skd_plugins import make_loader
from skd_plugins.data import Augmentation
from skd_plugins.data.augment import training_boxes
from skd_plugins.data.beton import BetonFile
from skd_plugins.data.sources import image_folder
from skd_plugins.data.write import write_beton


def photographs(root: Path, images: int) -> Path:
    """A folder of PNGs."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    for index in range(images):
        picture = load_sample_images().images[index % 2]
        height, width = int(draw.integers(300, 428)), int(draw.integers(380, 641))
        top, left = int(draw.integers(0, 428 - height)), int(draw.integers(0, 641 - width))
        folder = root / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + height, left : left + width]).save(folder / f"{index:03d}.png")
    return root


def pixels(path: Path, **options: Any) -> Tensor:
    """Our evaluation pixels, uint8 ``[N, 3, 224, 224]``."""
    loader = make_loader(path, train=False, image_size=224, batch_size=16, workers=2, **options)
    return torch.cat([input.clone() for input, _ in loader.host_batches()])


def timm_pixels(folder: Path) -> Tensor:
    """timm's, in the same order."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)), input_size=(3, 224, 224), batch_size=16, crop_pct=0.875, num_workers=0,
        interpolation="bilinear", mean=(0.0,) * 3, std=(1 / 255,) * 3, use_prefetcher=False,
        device=torch.device("cpu"),
    )  # fmt: skip
    return torch.cat([input for input, _ in loader]).round().to(torch.uint8)


def difference(one: Tensor, other: Tensor) -> list[float]:
    """Mean absolute difference of each image, grey levels."""
    return (one.float() - other.float()).abs().mean(dim=(1, 2, 3)).tolist()


@torch.no_grad()
def predictions(*sets: Tensor) -> list[Tensor]:
    """Classes that the network predicts for each of the sets; the first one sets its statistics."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18().train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean over the batches it sees
    inputs = [(images.float() / 255 - 0.45) / 0.225 for images in sets]
    network(inputs[0])
    network.eval()
    logits = [network(images) for images in inputs]
    return [(one - logits[0].mean(dim=0)).argmax(dim=1) for one in logits]


def evaluation_rows(root: Path, images: int) -> Iterable[Row]:
    """Ours against timm's pipeline."""
    folder = photographs(root / "photographs", images)
    source = image_folder(folder)
    sets = {
        "timm": timm_pixels(folder),
        "raw .beton": pixels(write_beton(source, root / "raw.beton", raw_share=1.0)),
        "JPEG .beton, quality 90": pixels(write_beton(source, root / "jpeg.beton")),
        "image folder": pixels(folder),
    }
    classes = dict(zip(sets, predictions(*sets.values()), strict=True))
    against = "timm's PIL pipeline, same images"
    for name in list(sets)[1:]:
        each = difference(sets[name], sets["timm"])
        yield Row(
            f"evaluation pixels, {name}", against, float(np.mean(each)), unit="grey levels", floor="0",
            detail={"worst_image": round(max(each), 3)},
        )  # fmt: skip
        agree = (classes[name] == classes["timm"]).float().mean().item() * 100
        yield Row(
            f"top-1 agreement (ResNet-18, random weights), {name}", against, agree, unit="%", floor="100",
            detail={"images": images, "classes_predicted": len(classes["timm"].unique())},
        )  # fmt: skip


def training_row(path: Path, size: int, what: str, epochs: int) -> Row:
    """Scaled decoding against full decoding, of the training crops that are scaled."""
    data, spec = BetonFile(path), Augmentation(image_size=size)
    total, each = 0, []
    for epoch in range(epochs):
        boxes, flips = training_boxes(
            spec, data.heights, data.widths, seed=0, epoch=epoch, positions=np.arange(len(data)),
            segments=np.zeros(len(data), np.int64),
        )  # fmt: skip
        for index, (box, flip) in enumerate(zip(boxes, flips, strict=True)):
            full, scaled = np.zeros((2, size, size, 3), np.uint8)
            assert not data.crop(index, box, bool(flip), full)
            assert not data.crop(index, box, bool(flip), scaled, scaled=True)
            total += 1
            if min(box[2:]) >= 2 * size:
                each.append(float(np.abs(full.astype(int) - scaled).mean()))
    return Row(
        f"training crops, scaled decoding, {what} to {size} px", "full decoding", float(np.mean(each)),
        unit="grey levels", floor="0", detail={"worst_crop": round(max(each), 3), "crops_scaled": len(each) / total},
    )  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few images: proves that it works, measures little")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images, epochs = (6, 4) if options.quick else (48, 10)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = list(evaluation_rows(root, images))
        for label, size, shape in (
            ("500 x 375 photographs", 96, (500, 375)),
            ("1600 x 1067 (enlarged)", 224, (1600, 1067)),
        ):
            folder = make_folder(root / label.split()[0], max(4, images // 4), shape)
            path = write_beton(image_folder(folder), root / f"{shape[0]}.beton")
            rows.append(training_row(path, size, label, epochs))
    report(rows, options.json)


if __name__ == "__main__":
    main()
