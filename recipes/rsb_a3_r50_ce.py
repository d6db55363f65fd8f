"""Binary cross-entropy, ResNet-50, ImageNet-1k: ResNet strikes back, procedure A3 (100 epochs, trained at 160 px).

Source:   Wightman et al. 2021 (arXiv 2110.00476), Table 2, column A3; presets.py lists the settings and what differs.
Expected: their 78.1 % top-1 at 224 px. We have not trained it.
Cost:     2.1 GFLOP per image and forward pass at 160 px.
Run:      accelerate launch recipes/rsb_a3_r50_ce.py --data $IMAGENET_BETON --out runs/
          batch_size is over all GPUs; where it does not fit, add grad_accumulation=4.
"""

from presets import PRESETS

from skd_plugins import Recipe, main, replace

recipe = replace(Recipe(name="resnet50.rsb_a3_ce", method="ce"), **PRESETS["rsb-a3/imagenet-1k"])

if __name__ == "__main__":
    main(recipe)
