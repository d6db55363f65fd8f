"""CS-KD, DenseNet-121, Stanford Dogs.

Source:   Yun et al. 2020, Table 1; everything else, also weight and temperature, as in cskd_dogs.py.
Expected: 27.81 +- 0.13 % top-1 error (cross-entropy 33.39 +- 0.17, AdaCos 27.87 +- 0.65, virtual softmax 30.55 +- 0.72,
          maximum entropy 29.52 +- 0.74, label smoothing 31.39 +- 0.46).
Cost:     2.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_dogs_densenet121.py --data $DOGS --out runs/
          for another method of the table, add method=ce name=densenet121.ce_dogs
"""

from cskd_dogs import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="densenet121.cskd_dogs",
    model="densenet121",
    model_args={},
)

if __name__ == "__main__":
    main(recipe)
