"""Cross-entropy, ResNeXt-101 32x4d, ImageNet-1k.

Source:   Yun et al. 2020, Table 5 (90 epochs, batch 256, one crop); everything else as in imagenet_r50_ce.py.
Expected: 21.6 % top-1 error.
Cost:     8.0 GFLOP per image and forward pass.
Run:      accelerate launch recipes/imagenet_resnext101_ce.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnext101_32x4d.ce_in1k",
    model="resnext101_32x4d",
)

if __name__ == "__main__":
    main(recipe)
