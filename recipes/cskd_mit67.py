"""CS-KD, ResNet-18, MIT67.

Source:   Yun et al. 2020, Tables 1 and 2; everything else as in cskd_cub200.py. The paper does not say which T and
          weight it uses; T = 4 and weight 3 are from the authors' command for CUB-200-2011, their only one for
          fine-grained data.
Expected: 40.45 +- 0.45 % top-1 error (cross-entropy 44.75 +- 0.80, AdaCos 42.66 +- 0.43, virtual softmax 42.86 +- 0.71,
          maximum entropy 43.36 +- 1.62, label smoothing 44.40 +- 0.71, DDGSD 41.17 +- 2.46, BYOT 44.88 +- 0.46).
Cost:     1.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_mit67.py --data $MIT67 --out runs/
          for another method of the table, add method=ce name=resnet18.ce_mit67
"""

from cskd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.cskd_mit67",
    dataset="mit67",
)

if __name__ == "__main__":
    main(recipe)
