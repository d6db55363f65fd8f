"""SD-Dropout, DenseNet-121, CIFAR-100.

Source:   Lee et al. 2022, Table 10; the rest as in sdd_cifar100.py.
Expected: 78.4 % top-1 accuracy (cross-entropy 77.3).   Cost: 0.89 GFLOP forward an image (SD-Dropout costs what
          cross-entropy does).
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
