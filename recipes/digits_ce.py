"""Cross-entropy on the embedded digits (scikit-learn's, 20 labels a class).

Source:   our own, a small stand-in for the ImageNet recipes that trains in seconds on a CPU.
Expected: 3.5 +- 0.4 % top-1 error, ECE 1.8 % (3 seeds, skd study recipes/digits_ce.py --data digits --seeds 3).
Cost:     seconds on 2 cores.
Run:      accelerate launch recipes/digits_ce.py --out runs/
"""

from skd_plugins import Recipe, main

recipe = Recipe(
    name="resnet10t_digits.ce",
    dataset="digits",
    model="resnet10t",
    model_args=dict(channels=(16, 32, 64, 128)),
    method="ce",
    epochs=40,
    batch_size=50,
    lr=0.05,
    schedule="cosine",
    warmup_epochs=5,
    image_size=32,
    augment="shift",
    padding=4,
    hflip=0.0,
    crop_pct=1.0,
    eval_batch_size=200,
    validate_every=10,
    workers=2,
)

if __name__ == "__main__":
    main(recipe)
