"""SD-Dropout on the embedded digits (scikit-learn's, 20 labels a class).

Source:   our own; method and defaults of Lee et al. 2022 (temperature 3, drop rate 0.5, weight 1).
Expected: see the table in the README, printed by make demo.
Cost:     seconds on 2 cores.
Run:      accelerate launch recipes/digits_sddropout.py --out runs/
"""

from digits_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet10t_digits.sdd",
    method="sd_dropout",
    method_args=dict(weight=1.0, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
