"""CS-KD with a bank of predictions, ResNet-50, ImageNet-1k: ResNet strikes back A2; see rsb_a2_r50_ce.py.

Source:   ours: Yun et al. 2020 with the class's last prediction instead of a second image's, on rsb_a2_r50_ce, but
          without mixup and cutmix, since the bank needs the images' classes. T = 4 and weight 1 are the authors'
          defaults, tuned for no such training.
Expected: no published number. We have not trained it; without mixup and cutmix the baseline is another one too.
Cost:     4.1 GFLOP per image and forward pass; a step costs the same as without it.
Run:      accelerate launch recipes/rsb_a2_r50_cskd_bank.py --data $IMAGENET_BETON --out runs/
          method_args.pairing=sampled mixup=0.1 cutmix=1 keeps the mixing, for a third more time.
"""

from rsb_a2_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet50.rsb_a2_cskd_bank",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="bank"),
    mixup=0.0,
    cutmix=0.0,
)

if __name__ == "__main__":
    main(recipe)
