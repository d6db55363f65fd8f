"""Cross-entropy, ResNet-152, ImageNet-1k: the baseline of SD-Dropout's Table 3.

Source:   Lee et al. 2022, Table 3 and section 4.1.2: 90 epochs, x0.1 at epochs 30 and 60, random crop 224, flip. We
          read its batch of 32 as 32 per GPU on 8 GPUs: the authors' ImageNet script has 256 in total, which fits the
          learning rate 0.1.
Expected: 74.8 % top-1, 92.5 % top-5 accuracy.
Cost:     11.5 GFLOP per image and forward pass.
Run:      accelerate launch recipes/imagenet_r152_ce.py --data $IMAGENET_BETON --out runs/
"""

from imagenet_r50_ce import recipe as base

from skd_plugins import main, replace

recipe = replace(
    base,
    name="resnet152.ce_in1k",
    model="resnet152",
)

if __name__ == "__main__":
    main(recipe)
