"""CS-KD, PreAct ResNet-10, TinyImageNet: the student of Table 4.

Source:   Yun et al. 2020, Table 4; everything else as in cskd_tinyimagenet.py. The paper does not say whether this
          ResNet-10 has pre-activation; the one in the authors' code has. KD's teacher is the network of
          cskd_tinyimagenet_densenet121.py.
Expected: 44.67 +- 0.12 % top-1 error (cross-entropy 46.61 +- 0.22, KD 43.31 +- 0.11, KD + CS-KD 42.82 +- 0.33).
Cost:     0.25 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_tinyimagenet_resnet10.py --data $TINYIMAGENET --out runs/
          for another method of the table, add method=ce name=preact_resnet10_cifar.ce_tinyimagenet
"""

from cskd_tinyimagenet import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="preact_resnet10_cifar.cskd_tinyimagenet",
    model="preact_resnet10_cifar",
)

if __name__ == "__main__":
    main(recipe)
