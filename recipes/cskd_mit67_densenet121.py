"""CS-KD, DenseNet-121, MIT67.

Source:   Yun et al. 2020, Table 1; everything else, also weight and temperature, as in cskd_mit67.py.
Expected: 40.02 +- 0.91 % top-1 error (cross-entropy 41.79 +- 0.19, AdaCos 40.25 +- 0.68, virtual softmax 43.66 +- 0.30,
          maximum entropy 43.48 +- 1.30, label smoothing 42.24 +- 1.23).
Cost:     2.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_mit67_densenet121.py --data $MIT67 --out runs/
          for another method of the table, add method=ce name=densenet121.ce_mit67
"""

from cskd_mit67 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121.cskd_mit67",
    model="densenet121",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
