"""SD-Dropout, ConvNeXt-T, ImageNet-1k; see convnext_t_ce.py.

Source:   ours: the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), on convnext_t_ce. Tuned
          for no such training.
Expected: no published number. We have not trained it.
Cost:     4.5 GFLOP per image and forward pass; a step costs the same as without it.
Run:      accelerate launch recipes/convnext_t_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from convnext_t_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="convnext_tiny.convnext_sdd",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
