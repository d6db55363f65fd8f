"""Cross-entropy, ResNet-50 with BlurPool, ImageNet-1k in 16, 40 or 88 epochs, after ffcv-imagenet.

Source:   libffcv/ffcv-imagenet, its ResNet-50 configurations; presets.py lists its settings and what differs.
Expected: ffcv-imagenet's own numbers, on 8 A100s, evaluated at 256 px with mirrored images: 73.8 % top-1 in 16 epochs
          (15 minutes), 77.2 in 40 (36), 78.4 in 88 (77). We have not trained it.
Cost:     2.6 GFLOP per image and forward pass at 160 px, 3.8 at 192 (theirs: 2.1 and 3.0).
Run:      accelerate launch recipes/fast_r50_ce.py --data $IMAGENET_BETON --out runs/ epochs=16
          epochs=40 or epochs=88 stretch the schedule and the sizes; add name=resnetblur50.ce_fast40. batch_size is that
          of 8 GPUs: on one, add grad_accumulation=8.
          skd evaluate runs/resnetblur50.ce_fast/seed0 --data $IMAGENET_BETON --flip
"""

from presets import PRESETS

from skd_plugins import Recipe, main, replace

recipe = replace(Recipe(name="resnetblur50.ce_fast", method="ce"), **PRESETS["fast/imagenet-1k"])

if __name__ == "__main__":
    main(recipe)
