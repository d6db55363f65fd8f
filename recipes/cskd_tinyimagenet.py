"""CS-KD, PreAct ResNet-18, TinyImageNet.

Source:   Yun et al. 2020, Tables 1 and 2; everything else as in cskd_cifar100.py, crops of 32 pixels as in the authors'
          code. The paper does not say which T and weight it uses; T = 4 and weight 1 are the defaults of the authors'
          code.
Expected: 41.62 +- 0.38 % top-1 error (cross-entropy 43.53 +- 0.19, AdaCos 42.61 +- 0.20, virtual softmax 42.41 +- 0.20,
          maximum entropy 41.77 +- 0.13, label smoothing 43.09 +- 0.34, DDGSD 41.48 +- 0.12, BYOT 44.02 +- 0.57).
Cost:     0.56 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_tinyimagenet.py --data $TINYIMAGENET --out runs/
          for another method of the table, add method=ce name=preact_resnet18_cifar.ce_tinyimagenet
"""

from cskd_cifar100 import recipe as base
from presets import PRESETS

from skd_plugins import main, replace

recipe = replace(
    base,
    name="preact_resnet18_cifar.cskd_tinyimagenet",
    dataset="tinyimagenet",
    **PRESETS["cskd/tinyimagenet"],
)

if __name__ == "__main__":
    main(recipe)
