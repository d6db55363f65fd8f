"""CS-KD, ResNet-10, CUB-200-2011: the student of Table 4.

Source:   Yun et al. 2020, Table 4; everything else as in cskd_cub200.py. The layout, one block a stage, is from the
          authors' code. KD's teacher is the network of cskd_cub200_densenet121.py.
Expected: 39.12 +- 0.09 % top-1 error (cross-entropy 48.36 +- 0.61, KD 39.32 +- 0.65, KD + CS-KD 34.47 +- 0.17).
Cost:     0.89 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cub200_resnet10.py --data $CUB200 --out runs/
          for another method of the table, add method=ce name=resnet10.ce_cub200
"""

from cskd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet10.cskd_cub200",
    model="resnet10",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
