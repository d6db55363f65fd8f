"""SD-Dropout, ResNet-50, ImageNet-1k: ResNet strikes back A3; see rsb_a3_r50_ce.py.

Source:   ours: the settings of Lee et al. 2022 for ResNet-152 (see imagenet_r152_sddropout.py), on rsb_a3_r50_ce. Tuned
          for no such training.
Expected: no published number. We have not trained it.
Cost:     2.1 GFLOP per image and forward pass at 160 px; a step costs the same as without it.
Run:      accelerate launch recipes/rsb_a3_r50_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from rsb_a3_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet50.rsb_a3_sdd",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
