"""CS-KD, ResNet-18, the mix of CUB-200-2011, Stanford Dogs and MIT67: 387 labels in three groups.

Source:   Yun et al. 2020, Figure 4 and section 3.3 (30 random training images a label, the original test sets); the
          paper gives no settings for it, so they are those of cskd_cub200.py. The groups are in hierarchy.json beside
          the data.
Expected: a figure in which 99.3 % of the birds are classified as birds; it prints no other number.
Cost:     1.8 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_mixed.py --data $MIXED --out runs/
          for the other half of the figure, add method=ce name=resnet18.ce_mixed
"""

from cskd_cub200 import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet18.cskd_mixed",
    dataset="mixed",
)

if __name__ == "__main__":
    main(recipe)
