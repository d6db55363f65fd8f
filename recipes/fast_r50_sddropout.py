"""SD-Dropout, ResNet-50 with BlurPool, ImageNet-1k in 16, 40 or 88 epochs; see fast_r50_ce.py.

Source:   ours: the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), on fast_r50_ce.
Expected: no published number.
Cost:     2.6 GFLOP per image and forward pass at 160 px, 3.8 at 192; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/fast_r50_sddropout.py --data $IMAGENET_BETON --out runs/ epochs=16
"""

from fast_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnetblur50.sdd_fast",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
