"""CS-KD on the embedded glyphs.

Source:   our own; method and temperature of Yun et al. 2020, the weight chosen on validation data (docs/evidence.md).
Expected: see docs/evidence.md.
Cost:     a minute on one core.
Run:      accelerate launch recipes/glyphs_cskd.py --out runs/
"""

from glyphs_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet14t_glyphs.cskd",
    method="cs_kd",
    method_args=dict(weight=0.5, temperature=4.0, pairing="sampled"),
)

if __name__ == "__main__":
    main(recipe)
