"""SD-Dropout, DenseNet-121, CIFAR-100.

Source:   Lee et al. 2022, Table 10; everything else as in sdd_cifar100.py.
Expected: 78.4 % top-1 accuracy (cross-entropy 77.3).
Cost:     0.89 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/sdd_cifar100_densenet121.py --data $CIFAR100 --out runs/
"""

from sdd_cifar100 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121_cifar.sdd_cifar100",
    model="densenet121_cifar",
)

if __name__ == "__main__":
    main(recipe)
