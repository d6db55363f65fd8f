"""CS-KD, ResNet-18, Stanford Dogs.

Source:   Yun et al. 2020, Tables 1 and 2; everything else as in cskd_cub200.py. The paper does not say which T and
          weight it uses; T = 4 and weight 3 are from the authors' command for CUB-200-2011, their only one for
          fine-grained data.
Expected: 30.85 +- 0.28 % top-1 error (cross-entropy 36.29 +- 0.32, AdaCos 32.66 +- 0.34, virtual softmax 31.48 +- 0.16,
          maximum entropy 32.41 +- 0.20, label smoothing 35.30 +- 0.66, DDGSD 31.53 +- 0.54, BYOT 34.02 +- 0.14).
Cost:     1.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_dogs.py --data $DOGS --out runs/
          for another method of the table, add method=ce name=resnet18.ce_dogs
"""

from cskd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.cskd_dogs",
    dataset="dogs",
)

if __name__ == "__main__":
    main(recipe)
