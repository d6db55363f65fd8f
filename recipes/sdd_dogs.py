"""SD-Dropout, ResNet-18, Stanford Dogs.

Source:   Lee et al. 2022, Table 1; everything else as in sdd_cub200.py. Whole images: the paper does not mention crops,
          and its cross-entropy result agrees with that of CS-KD on whole images. The authors' code, however, reads a
          folder "cropped"; skd data dogs-cropped writes one.
Expected: 69.9 % top-1 accuracy (cross-entropy 63.8, CS-KD 68.8, CS-KD + SD-Dropout 69.3, DDGSD 66.9, DDGSD + SD-Dropout
          68.1, BYOT 68.7, BYOT + SD-Dropout 71.2, DML 70.5, DML + SD-Dropout 72.0, label smoothing 65.2, label
          smoothing + SD-Dropout 70.1).
Cost:     1.8 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/sdd_dogs.py --data $DOGS --out runs/
          on top of CS-KD, add method_args.base=cs_kd method_args.weight=0.1 name=resnet18.cskd_sdd_dogs
"""

from sdd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.sdd_dogs",
    dataset="dogs",
)

if __name__ == "__main__":
    main(recipe)
