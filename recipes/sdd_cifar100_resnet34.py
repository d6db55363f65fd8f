"""SD-Dropout, ResNet-34, CIFAR-100.

Source:   Lee et al. 2022, Table 10; everything else as in sdd_cifar100.py.
Expected: 77.2 % top-1 accuracy (cross-entropy 75.7).
Cost:     1.16 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/sdd_cifar100_resnet34.py --data $CIFAR100 --out runs/
"""

from sdd_cifar100 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet34_cifar.sdd_cifar100",
    model="resnet34_cifar",
)

if __name__ == "__main__":
    main(recipe)
