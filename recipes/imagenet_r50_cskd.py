"""CS-KD, ResNet-50, ImageNet-1k.

Source:   Yun et al. 2020, Table 5 (90 epochs, batch 256, one crop); T = 4 and weight 1 are the authors' defaults, since
          the paper does not say which of its candidates ({1, 4} and {1, 2, 3, 4}) it uses on ImageNet.
Expected: 23.6 % top-1 error (cross-entropy 24.0).
Cost:     4.1 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/imagenet_r50_cskd.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet50.cskd_in1k",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="sampled"),
)

if __name__ == "__main__":
    main(recipe)
