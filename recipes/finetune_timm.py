"""Cross-entropy, any pretrained network of timm on your own folder: the base of a fine-tuning.

Source:   our own; AdamW with a cosine and a short warm-up is common practice. No number is tuned for your data.
Expected: depends on the data; docs/tutorials/finetune.md has one example.
Cost:     4.1 GFLOP per image and forward pass of the ResNet-50.
Run:      accelerate launch recipes/finetune_timm.py --data DIR model=convnext_tiny name=convnext_tiny.mine lr=1e-4
          method=cs_kd method_args.pairing=bank, or method=sd_dropout method_args.weight=0.1, adds a method; freeze=stem
          or freeze=body trains less; optimizer=momentum lr=0.01 is SGD. Without a network: initial_weights=FILE.
"""

from skd_plugins import Recipe, main

recipe = Recipe(
    name="finetuned.ce",
    dataset="mine",
    model="resnet50",
    initial_weights="pretrained",
    method="ce",
    epochs=20,
    batch_size=64,
    optimizer="adamw",
    lr=3e-4,
    weight_decay=0.05,
    decay_norm_and_bias=False,
    schedule="cosine",
    warmup_epochs=2,
    image_size=224,
    augment="rrc",
    crop_pct=0.875,
    interpolation="bicubic",
)

if __name__ == "__main__":
    main(recipe)
