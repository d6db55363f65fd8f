"""The papers' transforms, as fields of a `Recipe`: ``replace(recipe, **PRESETS["cskd/cifar100"])``.

Source: alinlab/cs-kd b447f25 ``datasets.py`` and yechanp/self_kd 9abb7e5 ``dataset.py``, which agree on every data set
that both have. For CIFAR, section 3.1 and footnote 6 of CS-KD say "random sized cropping for all tested methods", but
its code pads and crops; these presets follow the code. The filter of PIL and torchvision is bilinear there.

``fast/imagenet-1k`` is a whole training, after ffcv-imagenet; ``rsb-a3``, ``rsb-a2``, ``deit-s`` and ``convnext-t`` are
those of their papers.
"""

from typing import Any

_IMAGENET: dict[str, Any] = {
    "augment": "rrc",
    "scale": (0.08, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "hflip": 0.5,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
_CIFAR: dict[str, Any] = {
    "augment": "shift",
    "padding": 4,
    "hflip": 0.5,
    "interpolation": "bilinear",
    "image_size": 32,
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
}
# RandomResizedCrop(224) and flip; Resize(256) and CenterCrop(224): the middle 224/256 of the shorter side.
_LARGE = _IMAGENET | {"image_size": 224, "crop_pct": 0.875}

# Source: libffcv/ffcv-imagenet, rn50_configs/*.yaml (5bab20e) and train_imagenet.py (606c584). For 16, 40 and 88 epochs
# only `epochs` changes. Theirs: 512 images on each of 8 GPUs; a rate that rises to 1.7 in 2 epochs and falls to 0; 160
# px, then 192 from epoch 12, 32 and 71 on (a ramp in multiples of 32); BlurPool; smoothing; 256 px validation.
# Ours: EMA over about 100 steps; bf16 for fp16; no weight decay on any norm or bias (theirs: on none called bn); timm's
# BlurPool, which comes after a convolution of stride 1 (theirs: before one of stride 2).
_FAST: dict[str, Any] = _LARGE | {
    "model": "resnetblur50",
    "model_args": {"zero_init_last": False},
    "epochs": 16,
    "batch_size": 4096,
    "optimizer": "momentum",
    "lr": 1.7,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "decay_norm_and_bias": False,
    "schedule": "linear",
    "warmup_epochs": 2,
    "label_smoothing": 0.1,
    "ema_decay": 0.99,
    "image_size": 256,
    "train_sizes": ((0.0, 160), (0.807, 192)),
    "eval_batch_size": 512,
    "precision": "bf16",
    "compile": True,
    "workers": 12,
}

_MODERN: dict[str, Any] = _LARGE | {
    "interpolation": "bicubic",
    "decay_norm_and_bias": False,
    "schedule": "cosine",
    "precision": "bf16",
    "workers": 12,
}
# Source: Wightman et al. 2021 (ResNet strikes back), Table 2, as ported by open-mmlab/mmpretrain (ee7f2e8,
# configs/resnet) and Westlake-AI/openmixup; sizes, crops and accuracies (79.83, 78.05 %) as in timm aa4b585. Where the
# table is silent, as in others' commands for timm: targets above 0.2 are 1 (Alibaba-MIIL/ML_Decoder's README; the ports
# have no threshold), the rate ends at 1e-6. Theirs: fp16; the rate begins at 1e-4, ours at 0, and falls once an epoch,
# along a cosine that begins with the warm-up, ours after each step and after the warm-up.
_RSB: dict[str, Any] = _MODERN | {
    "model": "resnet50",
    "batch_size": 2048,
    "optimizer": "lamb",
    "weight_decay": 0.02,
    "warmup_epochs": 5,
    "min_lr": 1e-6,
    "loss": "bce",
    "bce_threshold": 0.2,
    "mixup": 0.1,
    "cutmix": 1.0,
    "crop_pct": 0.95,
}
_RSB_A3 = _RSB | {"epochs": 100, "lr": 8e-3, "train_sizes": ((0.0, 160),), "auto_augment": "rand-m6-mstd0.5-inc1"}
_RSB_A2 = _RSB | {
    "model_args": {"drop_path_rate": 0.05},
    "epochs": 300,
    "lr": 5e-3,
    "auto_augment": "rand-m7-mstd0.5-inc1",
    "repeated_augmentation": 3,
}
# What DeiT and ConvNeXt have in common.
_TRANSFORMER: dict[str, Any] = _MODERN | {
    "model_args": {"drop_path_rate": 0.1},
    "epochs": 300,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25,
}
# Source: Touvron et al. 2021 and the defaults of their main.py (facebookresearch/deit 7e160fe): 4 GPUs of 256 images, a
# rate of 5e-4 for each 512 images. Theirs: fp16; the rate begins at 1e-6 and falls as in ResNet strikes back; it
# averages (0.99996), unreported. timm aa4b585 evaluates their weights with crop_pct 0.9: 79.86 %.
_DEIT = _TRANSFORMER | {
    "model": "deit_small_patch16_224",
    "batch_size": 1024,
    "lr": 1e-3,
    "warmup_epochs": 5,
    "min_lr": 1e-5,
    "repeated_augmentation": 3,
}
# Source: Liu et al. 2022 and facebookresearch/ConvNeXt 048efce (main.py, datasets.py, TRAINING.md; README: 82.1 %, of
# the average, as timm's results/). Theirs: float32.
_CONVNEXT = _TRANSFORMER | {
    "model": "convnext_tiny",
    "batch_size": 4096,
    "lr": 4e-3,
    "warmup_epochs": 20,
    "min_lr": 1e-6,
    "ema_decay": 0.9999,
}

PRESETS: dict[str, dict[str, Any]] = {
    # RandomCrop(32, padding=4) and flip; the test images as they are.
    "cskd/cifar100": _CIFAR,
    "sdd/cifar100": _CIFAR,
    # RandomResizedCrop(32) and flip; Resize(32) of the 64 x 64 pixels.
    "cskd/tinyimagenet": _IMAGENET | {"image_size": 32, "crop_pct": 1.0},
    **{f"cskd/{name}": _LARGE for name in ("cub200", "dogs", "mit67", "mixed", "imagenet-1k")},
    **{f"sdd/{name}": _LARGE for name in ("cub200", "dogs", "imagenet-1k")},
    "fast/imagenet-1k": _FAST,
    "rsb-a3/imagenet-1k": _RSB_A3,
    "rsb-a2/imagenet-1k": _RSB_A2,
    "deit-s/imagenet-1k": _DEIT,
    "convnext-t/imagenet-1k": _CONVNEXT,
}
