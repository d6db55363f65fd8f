"""Cross-entropy, ResNet-101, ImageNet-1k.

Source:   Yun et al. 2020, Table 5 (90 epochs, batch 256, one crop); everything else as in imagenet_r50_ce.py.
Expected: 22.4 % top-1 error.
Cost:     7.8 GFLOP per image and forward pass.
Run:      accelerate launch recipes/imagenet_r101_ce.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet101.ce_in1k",
    model="resnet101",
)

if __name__ == "__main__":
    main(recipe)
