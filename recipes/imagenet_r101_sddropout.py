"""SD-Dropout, ResNet-101, ImageNet-1k.

Source:   not in the papers; the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), applied to
          another network.
Expected: no published number.
Cost:     7.8 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/imagenet_r101_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r101_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet101.sdd_in1k",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
