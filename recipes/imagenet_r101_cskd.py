"""CS-KD, ResNet-101, ImageNet-1k.

Source:   Yun et al. 2020, Table 5 (90 epochs, batch 256, one crop); T = 4 and weight 1 are the authors' defaults, since
          the paper does not say which of its candidates ({1, 4} and {1, 2, 3, 4}) it uses on ImageNet.
Expected: 22.0 % top-1 error (cross-entropy 22.4).
Cost:     7.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/imagenet_r101_cskd.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r101_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet101.cskd_in1k",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="sampled"),
)

if __name__ == "__main__":
    main(recipe)
