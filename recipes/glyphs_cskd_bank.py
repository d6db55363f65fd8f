"""CS-KD with a bank of predictions on the embedded glyphs.

Source:   our own; ours, after Yun et al. 2020; the weight is that of glyphs_cskd.
Expected: see docs/evidence.md.
Cost:     a minute on one core.
Run:      accelerate launch recipes/glyphs_cskd_bank.py --out runs/
"""

from glyphs_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet14t_glyphs.cskd_bank",
    method="cs_kd",
    method_args=dict(weight=0.5, temperature=4.0, pairing="bank"),
)

if __name__ == "__main__":
    main(recipe)
