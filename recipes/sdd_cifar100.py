"""SD-Dropout, ResNet-18, CIFAR-100: the base of every SD-Dropout recipe here but ImageNet's.

Source:   Lee et al. 2022, Table 1 and section 4.1.1: 200 epochs, x0.1 at epochs 100 and 150, batch 128, lambda 1.0 and
          drop rate 0.5 (appendix A.1). Temperature 3, post-activation blocks, padded crops, no Nesterov momentum and
          weight decay on all parameters are from the authors' code. On top of another method, their code uses lambda
          0.1.
Expected: 77.0 % top-1 accuracy (cross-entropy 74.8, CS-KD 77.3, CS-KD + SD-Dropout 77.4, DDGSD 76.8, DDGSD + SD-Dropout
          77.1, BYOT 77.2, BYOT + SD-Dropout 77.7, DML 78.9, DML + SD-Dropout 78.8, label smoothing 76.8, label
          smoothing + SD-Dropout 76.9).
Cost:     0.56 GFLOP per image and forward pass; a step costs the same as with cross-entropy.
Run:      accelerate launch recipes/sdd_cifar100.py --data $CIFAR100 --out runs/
          on top of CS-KD, add method_args.base=cs_kd method_args.weight=0.1 name=resnet18_cifar.cskd_sdd_cifar100
"""

from presets import PRESETS

from skd_plugins import Recipe, main

recipe = Recipe(
    name="resnet18_cifar.sdd_cifar100",
    dataset="cifar100",
    model="resnet18_cifar",
    method="sd_dropout",
    method_args=dict(weight=1.0, temperature=3.0, drop_rate=0.5),
    epochs=200,
    batch_size=128,
    optimizer="momentum",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    decay_norm_and_bias=True,
    schedule="multistep",
    milestones=(100, 150),
    lr_decay=0.1,
    **PRESETS["sdd/cifar100"],
)

if __name__ == "__main__":
    main(recipe)
