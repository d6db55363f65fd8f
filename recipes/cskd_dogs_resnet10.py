"""CS-KD, ResNet-10, Stanford Dogs: the student of Table 4.

Source:   Yun et al. 2020, Table 4; everything else as in cskd_dogs.py. The layout, one block a stage, is from the
          authors' code. KD's teacher is the network of cskd_dogs_densenet121.py.
Expected: 34.07 +- 0.46 % top-1 error (cross-entropy 38.96 +- 0.40, KD 34.23 +- 0.42, KD + CS-KD 32.59 +- 0.50).
Cost:     0.89 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_dogs_resnet10.py --data $DOGS --out runs/
          for another method of the table, add method=ce name=resnet10.ce_dogs
"""

from cskd_dogs import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet10.cskd_dogs",
    model="resnet10",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
