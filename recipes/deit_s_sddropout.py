"""SD-Dropout, DeiT-S, ImageNet-1k; see deit_s_ce.py.

Source:   ours: the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), on deit_s_ce. Tuned for
          no such training.
Expected: no published number. We have not trained it.
Cost:     4.6 GFLOP per image and forward pass; a step costs the same as without it.
Run:      accelerate launch recipes/deit_s_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from deit_s_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="deit_small_patch16_224.deit_sdd",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
