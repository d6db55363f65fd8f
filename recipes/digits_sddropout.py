"""SD-Dropout on the embedded digits (scikit-learn's, 20 labels a class).

Source:   our own; method and defaults of Lee et al. 2022 (temperature 3, drop rate 0.5, weight 1).
Expected: 2.7 +- 0.7 % top-1 error, ECE 26.9 % (3 seeds, skd study recipes/digits_ce.py --data digits --seeds 3).
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
