"""How far our evaluation pixels are from timm's PIL pipeline.

Evaluation is Resize(256), CenterCrop(224) of 48 crops of scikit-learn's two photographs (300 to 427 pixels high). Top-1
agreement needs a trained network, and the package comes only with networks for digits: it is measured with the released
`resnet10t_digits.ce` on the 797 validation digits, enlarged from 8 to 32 pixels. It says nothing about ImageNet.

Run: python benchmarks/parity.py [--quick] [--json FILE]
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rounds import options
from row import Row, report
from sklearn.datasets import load_sample_images
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_loader
from torch import Tensor

from skd_plugins import create_model, make_loader
from skd_plugins.data import Augmentation, open_source
from skd_plugins.data.beton.write import write_beton, write_folder
from skd_plugins.data.sources import image_folder


def lossless_photographs(root: Path, images: int) -> Path:
    draw = np.random.default_rng(0)
    for index in range(images):
        picture = load_sample_images().images[index % 2]
        height, width = int(draw.integers(300, 428)), int(draw.integers(380, 641))
        top, left = int(draw.integers(0, 428 - height)), int(draw.integers(0, 641 - width))
        folder = root / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + height, left : left + width]).save(folder / f"{index:03d}.png")
    return root


def pixels(path: Path) -> Tensor:
    """Our evaluation pixels, uint8 ``[N, 3, 224, 224]``."""
    loader = make_loader(path, train=False, image_size=224, batch_size=16, workers=2)
    return torch.cat([input.clone() for input, _ in loader.host_batches()])


def timm_batches(folder: Path, size: int, crop_pct: float, mean: Any, std: Any) -> Any:
    return create_loader(
        create_dataset("", root=str(folder)), input_size=(3, size, size), batch_size=16, crop_pct=crop_pct,
        num_workers=0, interpolation="bilinear", mean=mean, std=std, use_prefetcher=False, device=torch.device("cpu"),
    )  # fmt: skip


def timm_pixels(folder: Path) -> Tensor:
    """timm's evaluation pixels, in the same order."""
    batches = timm_batches(folder, 224, 0.875, (0.0,) * 3, (1 / 255,) * 3)
    return torch.cat([input for input, _ in batches]).round().to(torch.uint8)


def difference(one: Tensor, other: Tensor) -> list[float]:
    """Mean absolute difference of each image, grey levels."""
    return (one.float() - other.float()).abs().mean(dim=(1, 2, 3)).tolist()


@torch.no_grad()
def agreement_row(root: Path, images: int) -> Row:
    """How often a released network predicts the same class from our pixels as from timm's."""
    source = open_source("digits", False)
    source = source.subset(images // 10, seed=0) if images else source
    network = create_model("resnet10t_digits.ce", pretrained=True).eval()
    spec = Augmentation(image_size=32, crop_pct=1.0)
    paths = {
        "ours": write_beton(source, root / "digits.beton", raw_share=1.0, workers=1),
        "timm": write_folder(source, root / "digits"),
    }
    inputs = {
        "ours": [input for input, _ in make_loader(paths["ours"], train=False, augmentation=spec, workers=2)],
        "timm": [
            input for input, _ in timm_batches(paths["timm"], 32, 1.0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        ],
    }
    logits = {name: torch.cat([network(batch) for batch in batches]) for name, batches in inputs.items()}
    # The folder is ordered by class, the file like its source.
    by_class = np.argsort(source.targets, kind="stable")
    classes = logits["ours"].argmax(dim=1)[torch.from_numpy(by_class)], logits["timm"].argmax(dim=1)
    targets = torch.from_numpy(source.targets[by_class])
    return Row(
        "top-1 agreement, resnet10t_digits.ce", "timm's PIL pipeline, same images",
        (classes[0] == classes[1]).float().mean().item() * 100, unit="%", floor="100",
        detail={"images": len(targets), "top1": [(one == targets).float().mean().item() for one in classes]},
    )  # fmt: skip


def evaluation_rows(root: Path, images: int) -> Iterable[Row]:
    """The mean difference between our evaluation pixels and timm's."""
    folder = lossless_photographs(root / "photographs", images)
    source = image_folder(folder)
    sets = {
        "timm": timm_pixels(folder),
        "raw .beton": pixels(write_beton(source, root / "raw.beton", raw_share=1.0)),
        "JPEG .beton, quality 90": pixels(write_beton(source, root / "jpeg.beton")),
        "image folder": pixels(folder),
    }
    against = "timm's PIL pipeline, same images"
    for name in list(sets)[1:]:
        each = difference(sets[name], sets["timm"])
        yield Row(
            f"evaluation pixels, {name}", against, float(np.mean(each)), unit="grey levels", floor="0",
            detail={"worst_image": round(max(each), 3)},
        )  # fmt: skip


def main() -> None:
    given = options(__doc__)
    images = 6 if given.quick else 48
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = [*evaluation_rows(root, images), agreement_row(root, 100 if given.quick else 0)]
    report(rows, given.json)


if __name__ == "__main__":
    main()
