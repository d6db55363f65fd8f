"""CS-KD, ResNet-18, CUB-200-2011.

Source:   Yun et al. 2020, Tables 1 and 2; batch 32 (section 3.1), everything else as in cskd_cifar100.py. The paper
          does not say which T and weight it uses; T = 4 and weight 3 are from the authors' command for CUB-200-2011.
          The network is torchvision's ResNet-18, which initialises no norm with zero.
Expected: 33.28 +- 0.99 % top-1 error (cross-entropy 46.00 +- 1.43, AdaCos 35.47 +- 0.07, virtual softmax 35.03 +- 0.51,
          maximum entropy 39.86 +- 1.11, label smoothing 42.99 +- 0.99, DDGSD 41.17 +- 1.28, BYOT 40.76 +- 0.39).
Cost:     1.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cub200.py --data $CUB200 --out runs/
          for another method of the table, add method=ce name=resnet18.ce_cub200
"""

from cskd_cifar100 import recipe as base
from presets import PRESETS

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.cskd_cub200",
    dataset="cub200",
    model="resnet18",
    model_args=dict(zero_init_last=False),
    method_args=dict(weight=3.0, temperature=4.0, pairing="sampled"),
    batch_size=32,
    **PRESETS["cskd/cub200"],
)

if __name__ == "__main__":
    main(recipe)
