"""Cross-entropy, ConvNeXt-T, ImageNet-1k in 300 epochs.

Source:   Liu et al. 2022 (arXiv 2201.03545) and the authors' code; presets.py lists the settings and what differs.
Expected: their 82.1 % top-1, of the average of the weights. We have not trained it.
Cost:     4.5 GFLOP per image and forward pass.
Run:      accelerate launch recipes/convnext_t_ce.py --data $IMAGENET_BETON --out runs/
          batch_size is over all GPUs; where it does not fit, add grad_accumulation=4.
"""

from presets import PRESETS

from skd_plugins import Recipe, main, replace

recipe = replace(Recipe(name="convnext_tiny.convnext_ce", method="ce"), **PRESETS["convnext-t/imagenet-1k"])

if __name__ == "__main__":
    main(recipe)
