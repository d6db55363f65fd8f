"""CS-KD, DenseNet-121, CUB-200-2011.

Source:   Yun et al. 2020, Table 1; everything else, also weight and temperature, as in cskd_cub200.py.
Expected: 30.83 +- 0.39 % top-1 error (cross-entropy 42.30 +- 0.44, AdaCos 30.84 +- 0.38, virtual softmax 33.85 +- 0.75,
          maximum entropy 37.51 +- 0.71, label smoothing 40.63 +- 0.24).
Cost:     2.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cub200_densenet121.py --data $CUB200 --out runs/
          for another method of the table, add method=ce name=densenet121.ce_cub200
"""

from cskd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121.cskd_cub200",
    model="densenet121",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
