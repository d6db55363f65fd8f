"""CS-KD on the embedded digits (scikit-learn's, 20 labels a class).

Source:   our own; method and defaults of Yun et al. 2020 (temperature 4, weight 1).
Expected: 2.3 +- 0.6 % top-1 error, ECE 9.1 % (3 seeds, skd study recipes/digits_ce.py --data digits --seeds 3).
Cost:     seconds on 2 cores.
Run:      accelerate launch recipes/digits_cskd.py --out runs/
"""

from digits_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet10t_digits.cskd",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="sampled"),
)

if __name__ == "__main__":
    main(recipe)
