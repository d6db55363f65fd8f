"""Label smoothing on the embedded glyphs.

Source:   our own; the strength chosen on validation data (docs/evidence.md).
Expected: see docs/evidence.md.
Cost:     a minute on one core.
Run:      accelerate launch recipes/glyphs_label_smoothing.py --out runs/
"""

from glyphs_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet14t_glyphs.ls",
    method="label_smoothing",
    method_args=dict(label_smoothing=0.05),
)

if __name__ == "__main__":
    main(recipe)
