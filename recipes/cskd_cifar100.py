"""CS-KD, PreAct ResNet-18, CIFAR-100: the base of every CS-KD recipe here but ImageNet's.

Source:   Yun et al. 2020, Tables 1 and 2 and section 3.1: 200 epochs, x0.1 at epochs 100 and 150, batch 128 anchors; no
          Nesterov momentum, weight decay on all parameters, and padded crops as in the authors' code (the paper says
          "random sized crop"; the code lowers the learning rate one epoch later). The paper chooses T from {1, 4} and
          the weight from {1, 2, 3, 4} without saying which; T = 4 and weight 1 are from the authors' command for
          CIFAR-100.
Expected: 21.99 +- 0.13 % top-1 error (cross-entropy 24.71 +- 0.24, AdaCos 23.71 +- 0.36, virtual softmax 23.01 +- 0.42,
          maximum entropy 22.72 +- 0.29, label smoothing 22.69 +- 0.28, DDGSD 23.85 +- 1.57, BYOT 23.81 +- 0.11).
Cost:     0.56 GFLOP per image and forward pass; CS-KD adds one forward pass, so a step takes 4/3 of cross-entropy's.
Run:      accelerate launch recipes/cskd_cifar100.py --data $CIFAR100 --out runs/
          for another method of the table, add method=ce name=preact_resnet18_cifar.ce_cifar100
"""

from presets import PRESETS

from skd_plugins import Recipe, main

recipe = Recipe(
    name="preact_resnet18_cifar.cskd_cifar100",
    dataset="cifar100",
    model="preact_resnet18_cifar",
    method="cs_kd",
    method_args=dict(weight=1.0, temperature=4.0, pairing="sampled"),
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
    **PRESETS["cskd/cifar100"],
)

if __name__ == "__main__":
    main(recipe)
