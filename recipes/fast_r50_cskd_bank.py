"""CS-KD with a bank of predictions, ResNet-50 with BlurPool, ImageNet-1k in 16, 40 or 88 epochs; see fast_r50_ce.py.

Source:   ours: Yun et al. 2020 with the class's last prediction instead of a second image's, on fast_r50_ce; T = 4 and
          weight 1 are the authors' defaults, tuned for no such schedule.
Expected: no published number.
Cost:     2.6 GFLOP per image and forward pass at 160 px, 3.8 at 192; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/fast_r50_cskd_bank.py --data $IMAGENET_BETON --out runs/ epochs=16
"""

from fast_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnetblur50.cskd_bank_fast",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="bank"),
)

if __name__ == "__main__":
    main(recipe)
