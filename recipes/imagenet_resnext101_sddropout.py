"""SD-Dropout, ResNeXt-101 32x4d, ImageNet-1k.

Source:   not in the papers; the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), applied to
          another network.
Expected: no published number.
Cost:     8.0 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/imagenet_resnext101_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_resnext101_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnext101_32x4d.sdd_in1k",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
