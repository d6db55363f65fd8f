"""CS-KD, DenseNet-121, CIFAR-100.

Source:   Yun et al. 2020, Table 1; everything else, also weight and temperature, as in cskd_cifar100.py.
Expected: 21.69 +- 0.49 % top-1 error (cross-entropy 22.23 +- 0.04, AdaCos 22.17 +- 0.24, virtual softmax 23.66 +- 0.10,
          maximum entropy 22.87 +- 0.45, label smoothing 21.88 +- 0.45).
Cost:     0.89 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cifar100_densenet121.py --data $CIFAR100 --out runs/
          for another method of the table, add method=ce name=densenet121_cifar.ce_cifar100
"""

from cskd_cifar100 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121_cifar.cskd_cifar100",
    model="densenet121_cifar",
)

if __name__ == "__main__":
    main(recipe)
