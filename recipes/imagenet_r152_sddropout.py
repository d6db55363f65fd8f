"""SD-Dropout, ResNet-152, ImageNet-1k.

Source:   Lee et al. 2022, Table 3 and section 4.1.2 (lambda 0.1, 90 epochs; everything else as in imagenet_r152_ce.py).
          Drop rate 0.5 is from appendix A.1 (CIFAR-100), temperature 3 from the authors' code. Their ImageNet script
          has lambda 1.0, but the paper says 0.1; this recipe follows the paper.
Expected: 75.5 % top-1, 92.7 % top-5 accuracy (cross-entropy 74.8 and 92.5).
Cost:     11.5 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/imagenet_r152_sddropout.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r152_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet152.sdd_in1k",
    method="sd_dropout",
    method_args=dict(weight=0.1, temperature=3.0, drop_rate=0.5),
)

if __name__ == "__main__":
    main(recipe)
