"""A detector of torchvision on a network trained with skd_plugins, in a plain loop, with COCO's AP.

Needs: skd_plugins, pycocotools.  Run: python examples/torchvision_detector.py WEIGHTS FOLDER CLASSES [EPOCHS]
FOLDER has train.json and val.json in COCO's format, with categories from 1, and the images in train/ and val/.
"""

import sys
from pathlib import Path

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))  # `detection` is a folder of the checkout
from detection.torchvision_models import use_backbone

weights, folder, classes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 12
torch.manual_seed(0)


def images(half: str) -> CocoDetection:
    """Images ``[3, H, W]`` in [0, 1] with ``boxes``, ``labels`` and ``image_id``."""
    change = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = CocoDetection(folder / half, folder / f"{half}.json", transforms=change)
    return wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels", "image_id"))


def loader(half: str, batch_size: int) -> DataLoader:
    """Lists of images and targets."""
    data, train = images(half), half == "train"
    return DataLoader(data, batch_size, shuffle=train, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))


body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
detector = use_backbone(FasterRCNN(body, classes + 1, min_size=160, max_size=640), weights, trainable_layers=5)
parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
for _ in range(epochs):
    detector.train()
    for pictures, targets in loader("train", 4):
        kept = [(picture, target) for picture, target in zip(pictures, targets, strict=True) if "boxes" in target]
        losses = detector([picture for picture, _ in kept], [target for _, target in kept])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

detector.eval()
found = []
for (picture,), (target,) in loader("val", 1):
    with torch.no_grad():
        (result,) = detector([picture])
    corners, labels, scores = (result[key].tolist() for key in ("boxes", "labels", "scores"))
    for (left, top, right, bottom), label, score in zip(corners, labels, scores, strict=True):
        box = [left, top, right - left, bottom - top]
        found.append({"image_id": target["image_id"], "bbox": box, "category_id": label, "score": score})
truth = COCO(str(folder / "val.json"))
evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
