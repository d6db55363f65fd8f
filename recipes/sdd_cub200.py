"""SD-Dropout, ResNet-18, CUB-200-2011.

Source:   Lee et al. 2022, Table 1 and section 4.1.1 (224 pixels, batch 32); everything else as in sdd_cifar100.py.
          lambda and drop rate were chosen on CIFAR-100; the paper states no others. The network is torchvision's
          ResNet-18, which initialises no norm with zero.
Expected: 66.6 % top-1 accuracy (cross-entropy 53.8, CS-KD 64.9, CS-KD + SD-Dropout 65.4, DDGSD 58.3, DDGSD + SD-Dropout
          62.9, BYOT 60.6, BYOT + SD-Dropout 68.7, DML 61.5, DML + SD-Dropout 65.7, label smoothing 56.2, label
          smoothing + SD-Dropout 67.6).
Cost:     1.8 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/sdd_cub200.py --data $CUB200 --out runs/
          on top of CS-KD, add method_args.base=cs_kd method_args.weight=0.1 name=resnet18.cskd_sdd_cub200
"""

from presets import PRESETS
from sdd_cifar100 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.sdd_cub200",
    dataset="cub200",
    model="resnet18",
    model_args=dict(zero_init_last=False),
    batch_size=32,
    **PRESETS["sdd/cub200"],
)

if __name__ == "__main__":
    main(recipe)
