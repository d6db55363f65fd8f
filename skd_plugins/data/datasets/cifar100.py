"""CIFAR-100 (Krizhevsky 2009), read by torchvision."""

from pathlib import Path

import numpy as np

from ..sources import Source
from .dataset import Archive, Dataset


def read(root: Path, train: bool, part: str) -> Source:
    """Reads a half with torchvision, which verifies it, and downloads it if it is missing."""
    from torchvision.datasets import CIFAR100  # imports torch; listing the data sets does not need it

    data = CIFAR100(str(root), train=train, download=True)
    half = "training" if train else "test"
    return Source(
        description=f"CIFAR-100 {half} set",
        classes=list(data.classes),
        targets=np.array(data.targets, dtype=np.int64),
        load=lambda index: np.asarray(data.data[index]),
        name_of=lambda index: f"image {index} of CIFAR-100's {half} set",
    )


DATASET = Dataset(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    train=50_000,
    val=10_000,
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated",
    layout="cifar-100-python/",
    read=read,
    archives=(
        Archive(
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            contents="cifar-100-python",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            free=True,
        ),
    ),
    exact=True,
)

# In the order of the labels, for CIFAR-100-C, whose archive does not name them.
CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel",
    "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
