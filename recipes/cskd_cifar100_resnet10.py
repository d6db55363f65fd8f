"""CS-KD, PreAct ResNet-10, CIFAR-100: the student of Table 4.

Source:   Yun et al. 2020, Table 4; everything else as in cskd_cifar100.py. The paper does not say whether this
          ResNet-10 has pre-activation; the one in the authors' code has. KD's teacher is the network of
          cskd_cifar100_densenet121.py.
Expected: 25.80 +- 0.10 % top-1 error (cross-entropy 26.72 +- 0.33, KD 25.84 +- 0.07, KD + CS-KD 25.58 +- 0.16).
Cost:     0.25 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cifar100_resnet10.py --data $CIFAR100 --out runs/
          for another method of the table, add method=ce name=preact_resnet10_cifar.ce_cifar100
"""

from cskd_cifar100 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="preact_resnet10_cifar.cskd_cifar100",
    model="preact_resnet10_cifar",
)

if __name__ == "__main__":
    main(recipe)
