"""Cross-entropy, ResNet-50, ImageNet-1k: the baseline of CS-KD's Table 5, and the base of every ImageNet recipe here.

Source:   Yun et al. 2020, Table 5 (90 epochs, batch 256, one crop); learning rate 0.1, x0.1 at epochs 30 and 60 as in
          Lee et al. 2022, section 4.1.2 (the CS-KD paper does not state its schedule for 90 epochs); no Nesterov
          momentum and weight decay on all parameters, as in the code of both papers; residual branches do not start at
          zero, as in torchvision's networks. bf16 autocast is ours: neither paper states a precision.
Expected: 24.0 % top-1 error.
Cost:     4.1 GFLOP per image and forward pass.
Run:      accelerate launch recipes/imagenet_r50_ce.py --data $IMAGENET_BETON --out runs/
"""

from skd_plugins import Recipe, main

recipe = Recipe(
    name="resnet50.ce_in1k",
    dataset="imagenet-1k",
    model="resnet50",
    model_args=dict(zero_init_last=False),
    method="ce",
    epochs=90,
    batch_size=256,
    optimizer="momentum",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    decay_norm_and_bias=True,
    schedule="multistep",
    milestones=(30, 60),
    lr_decay=0.1,
    image_size=224,
    augment="rrc",
    crop_pct=0.875,
    precision="bf16",
)

if __name__ == "__main__":
    main(recipe)
