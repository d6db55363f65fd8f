"""CS-KD, PreAct ResNet-18, CIFAR-100: the base of every CS-KD recipe here but ImageNet's.

Source:   Yun et al. 2020, Tables 1 and 2 and section 3.1: 200 epochs, x0.1 at epochs 100 and 150, batch 128 anchors; no
          Nesterov, weight decay on everything, pad and crop as in the authors' code (their text says "random sized
          crop"; their code takes the steps one epoch later). T and weight were chosen from {1, 4} and {1, 2, 3, 4}, it
          is not said which; T = 4 and weight 1 are the authors' command for CIFAR-100.
Expected: 21.99 +- 0.13 % top-1 error (cross-entropy 24.71 +- 0.24, AdaCos 23.71 +- 0.36, virtual softmax 23.01 +- 0.42,
          maximum entropy 22.72 +- 0.29, label smoothing 22.69 +- 0.28, DDGSD 23.85 +- 1.57, BYOT 23.81 +- 0.11).
          Cost: 0.56 GFLOP forward an image (CS-KD adds one forward pass: 4/3 of cross-entropy's step).
Run:      accelerate launch recipes/cskd_cifar100.py --data $CIFAR100 --out runs/
          another method of the table: add method=ce name=preact_resnet18_cifar.ce_cifar100
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
