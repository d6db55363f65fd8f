"""CS-KD, ResNet-10, MIT67: the student of Table 4.

Source:   Yun et al. 2020, Table 4; everything else as in cskd_mit67.py. The layout, one block a stage, is from the
          authors' code. KD's teacher is the network of cskd_mit67_densenet121.py.
Expected: 41.54 +- 0.67 % top-1 error (cross-entropy 44.75 +- 0.62, KD 41.47 +- 0.79, KD + CS-KD 40.27 +- 0.78).
Cost:     0.89 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_mit67_resnet10.py --data $MIT67 --out runs/
          for another method of the table, add method=ce name=resnet10.ce_mit67
"""

from cskd_mit67 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet10.cskd_mit67",
    model="resnet10",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
