"""SD-Dropout on the embedded glyphs.

Source:   our own; method of Lee et al. 2022, the weight chosen on validation data (docs/evidence.md).
Expected: see docs/evidence.md.
Cost:     a minute on one core.
Run:      accelerate launch recipes/glyphs_sddropout.py --out runs/
"""

from glyphs_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet14t_glyphs.sdd",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
