"""CS-KD, DenseNet-121, TinyImageNet.

Source:   Yun et al. 2020, Table 1; everything else, also weight and temperature, as in cskd_tinyimagenet.py.
Expected: 37.96 +- 0.09 % top-1 error (cross-entropy 39.22 +- 0.27, AdaCos 38.76 +- 0.23, virtual softmax 41.58 +- 1.58,
          maximum entropy 38.39 +- 0.33, label smoothing 38.75 +- 0.18).
Cost:     0.89 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_tinyimagenet_densenet121.py --data $TINYIMAGENET --out runs/
          for another method of the table, add method=ce name=densenet121_cifar.ce_tinyimagenet
"""

from cskd_tinyimagenet import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121_cifar.cskd_tinyimagenet",
    model="densenet121_cifar",
)

if __name__ == "__main__":
    main(recipe)
