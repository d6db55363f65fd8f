"""Corruptions: each by what defines it, all by what they have in common."""

import colorsys
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from test_attacks import MEAN, STD, Net, batch, pixels_of

import skd_plugins
from skd_plugins.common.errors import SkdError
from skd_plugins.data import open_source
from skd_plugins.data.beton.write import write_folder
from skd_plugins.data.datasets.cifar100c import CORRUPTIONS
from skd_plugins.evaluation import corruptions, predict, top1
from skd_plugins.evaluation.command import evaluate
from skd_plugins.evaluation.corruptions import Corruption, _enlarged, _moved, corrupt, photographs
from skd_plugins.evaluation.evaluate import evaluate_weights
from skd_plugins.evaluation.report import corruption_accuracy
from skd_plugins.recipe import Recipe
from skd_plugins.training.main import HELP
from skd_plugins.training.parts import evaluation_loader
from skd_plugins.weights import load_network

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Pixels:
    from sklearn.datasets import load_sample_images

    return np.ascontiguousarray(load_sample_images().images[0][100:324, 200:424])


@pytest.fixture(scope="module")
def small(photo: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(photo).resize((32, 32), Image.Resampling.BOX))


def grey(level: int, size: int = 200) -> Pixels:
    return np.full((size, size, 3), level, np.uint8)


def distance(a: Pixels, b: Pixels) -> float:
    return float(((a.astype(float) - b.astype(float)) ** 2).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_size_seeded_and_worse_at_the_highest_severity(name: str, small: Pixels) -> None:
    images = [corrupt(small, name, severity) for severity in range(1, 6)]
    for image in images:
        assert image.shape == small.shape
        assert image.dtype == np.uint8
        assert not np.array_equal(image, small)
    # Elastic transforms trade the affine part for the displacement; the benchmark's severities are not ordered by it.
    if name != "elastic_transform":
        assert distance(images[4], small) > distance(images[0], small)
    assert np.array_equal(corrupt(small, name, 3), images[2])
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(corrupt(small, name, 3, seed=1), images[2]) != random
    for shape in ((1, 1), (28, 41), (90, 67)):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert corrupt(image, name, 5).shape == image.shape


def test_noises_have_their_strength() -> None:
    plain = grey(128)
    values = corrupt(plain, "gaussian_noise", 1) / 255 - 128 / 255  # a large image: 0.08
    assert values.std() == pytest.approx(0.08, rel=0.02)
    assert values.mean() == pytest.approx(-0.5 / 255, abs=1e-3), "cut off to whole levels, as the benchmark does"
    shot = corrupt(plain, "shot_noise", 1) / 255
    assert shot.var() == pytest.approx(128 / 255 / 60, rel=0.03)
    impulse = corrupt(plain, "impulse_noise", 5)
    assert (impulse != 128).mean() == pytest.approx(0.27, abs=0.01)
    assert (impulse == 255).mean() == pytest.approx(0.135, abs=0.01)
    assert set(np.unique(impulse)) == {0, 128, 255}


def test_contrast_keeps_the_mean_and_follows_the_size(photo: Pixels, small: Pixels) -> None:
    for image, factor in ((photo, 0.3), (small, 0.5)):
        mean = image.mean(axis=(0, 1))
        np.testing.assert_allclose(corrupt(image, "contrast", 2), (image - mean) * factor + mean, atol=1.0)


def test_brightness_is_that_of_hsv(small: Pixels) -> None:
    image = small.copy()
    image[0, 0] = 0
    result = corrupt(image, "brightness", 3)
    for place in [(0, 0), (5, 9), (31, 2), (16, 16)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))) * 255
        np.testing.assert_allclose(result[place], expected, atol=1.0)


def test_jpeg_and_pixelate_are_pillow(small: Pixels) -> None:
    file = io.BytesIO()
    Image.fromarray(small).save(file, "jpeg", quality=58)
    assert np.array_equal(corrupt(small, "jpeg_compression", 3), np.asarray(Image.open(file)))
    box = Image.Resampling.BOX
    expected = np.asarray(Image.fromarray(small).resize((20, 20), box).resize((32, 32), box))
    assert np.array_equal(corrupt(small, "pixelate", 5), expected)


def test_blurs_keep_a_plain_image_and_spread_a_point() -> None:
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"):
        plain = grey(100, 96)
        assert np.abs(corrupt(plain, name, 5).astype(int) - 100).max() <= 1, name
    point = np.zeros((101, 101, 3), np.uint8)
    point[50, 50] = 255
    disk = corrupt(point, "defocus_blur", 1)[..., 0]
    line = np.arange(-50, 51)
    inside = line[:, None] ** 2 + line**2 <= 9
    assert disk[inside].min() == disk[inside].max() == 255 // inside.sum()
    assert disk[~inside].max() == 0


def test_glass_blur_takes_pixels_from_nearby(small: Pixels) -> None:
    """At severity 1 for small images the blur is none: every pixel is a copy of one at most 1 away."""
    result = corrupt(small, "glass_blur", 1)
    assert (result != small).any(axis=2).mean() > 0.3
    # One pass from the lower right moves a value further only by way of a pixel that was already passed.
    for row in range(1, 31):
        for column in range(1, 31):
            near = small[max(0, row - 1) :, max(0, column - 1) :].reshape(-1, 3)
            assert (near == result[row, column]).all(axis=1).any()


def test_motion_blur_is_half_a_gaussian_along_its_angle() -> None:
    point = np.zeros((41, 41))
    point[20, 20] = 1
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    weights /= weights.sum()
    level = _moved(point, 6, 2, angle=0)  # a pixel sees those to its right
    np.testing.assert_allclose(level[20, 20 - np.arange(13)], weights)
    steep = _moved(point, 6, 2, angle=-90)  # and at -90 degrees those above it
    np.testing.assert_allclose(steep[20 + np.arange(13), 20], weights)
    assert _moved(point, 6, 2, angle=30).sum() == pytest.approx(1)
    np.testing.assert_allclose(_moved(np.ones((9, 9)), 6, 2, angle=33), 1)


def test_enlarging_keeps_the_centre_and_the_size() -> None:
    ramp = np.linspace(0, 1, 40)[:, None] * np.ones((40, 30))
    large = _enlarged(ramp, 2)
    assert large.shape == ramp.shape
    assert large[0, 0] == pytest.approx(ramp[10, 0])
    assert large[-1, 0] == pytest.approx(ramp[29, 0])
    assert np.array_equal(_enlarged(ramp, 1), ramp)


def test_fog_and_snow_brighten_and_fog_flattens(photo: Pixels) -> None:
    dark = photo // 4
    dark[0, 0] = 255  # fog is scaled to the brightest value
    for name in ("fog", "snow"):
        assert corrupt(dark, name, 3).mean() > dark.mean() + 10, name
    fogged = corrupt(photo, "fog", 3).astype(float)
    detail, before = (image - gaussian_filter(image, (3, 3, 0)) for image in (fogged, photo.astype(float)))
    assert detail.std() < 0.5 * before.std()


def test_in_predict_on_what_the_network_sees() -> None:
    input, target = batch(5)
    model = Net().eval()
    perturb = Corruption(name="gaussian_noise", severity=2, mean=MEAN, std=STD)
    whole = predict(model, [(input, target)], perturb=perturb).logits
    parts = predict(model, [(input[:2], target[:2]), (input[2:], target[2:])], perturb=perturb).logits
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    levels, seen = (
        255 * pixels_of(images)[3].permute(1, 2, 0).numpy() for images in (input, perturb(model, input, target))
    )
    np.testing.assert_allclose(seen, corrupt(levels.round().astype(np.uint8), "gaussian_noise", 2), atol=1e-3)


@pytest.mark.parametrize(
    ("image", "name", "severity", "message"),
    [
        (grey(9), "fogg", 1, "did you mean 'fog'"),
        (grey(9), "contrast", 6, "severity of contrast is 1 to 5, got 6"),
        (np.zeros((9, 9, 3)), "fog", 1, "uint8 images"),
    ],
)
def test_what_is_refused(image: Pixels, name: str, severity: int, message: str) -> None:
    with pytest.raises(SkdError, match=message):
        corrupt(image, name, severity)


def test_frost_is_a_piece_of_a_photograph(photo: Pixels, small: Pixels) -> None:
    wholes = [(255 * photograph).round() for photograph in photographs()]
    assert len(wholes) == 5
    # On black, what is added is the photograph alone: 0.2 of every fifth pixel, or 0.4 of every one.
    for side, step, amount in ((32, 5, 0.2), (224, 1, 0.4)):
        layer = corrupt(np.zeros((side, side, 3), np.uint8), "frost", 1).astype(float)
        best = min(
            _distance_in(layer, amount * whole[(step == 5) * 2 :: step, (step == 5) * 2 :: step]) for whole in wholes
        )
        assert best < 1, best  # rounding down
    assert corrupt(np.zeros((3000, 70, 3), np.uint8), "frost", 3).max() > 0, "larger than the photographs"


def _distance_in(layer: NDArray[np.float64], photograph: NDArray[np.float64]) -> float:
    """The largest difference from the piece of a photograph that is most like it."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph[:, :, 0], layer.shape[:2])
    corner = np.abs(windows[:, :, :4, :4] - layer[:4, :4, 0]).max(axis=(2, 3))
    if not corner.size:
        return np.inf
    top, left = np.unravel_index(corner.argmin(), corner.shape)
    return float(np.abs(photograph[top : top + len(layer), left : left + len(layer)] - layer).max())


def test_mca_is_the_mean_of_the_printed_fifteen() -> None:
    """SD-Dropout's Table 6, cross-entropy: the printed accuracies have the printed mean; extra ones do not count."""
    values = (23.1, 31.2, 27.1, 57.0, 25.1, 52.4, 50.1, 52.7, 47.2, 61.1, 70.2, 50.6, 59.4, 52.9, 52.4)
    printed = dict(zip(CORRUPTIONS, values, strict=True)) | {"spatter": 100.0}
    spread = np.array([10, 5, 0, -5, -10])  # a mean of 0
    result = corruption_accuracy({name: list((value + spread) / 100) for name, value in printed.items()})
    expected = {name: value / 100 for name, value in printed.items()} | {"mca": 0.4749}
    assert result == pytest.approx(expected, abs=1e-4), "printed; the mean of the rounded ones is 0.47497"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released network of the digits, and 40 of its validation digits as PNG files."""
    folder = tmp_path_factory.mktemp("corrupted")
    shutil.copytree(Path(skd_plugins.__file__).parent / "weights" / "released" / "resnet10t_digits.ce", folder / "run")
    write_folder(open_source("digits", False).subset(4, seed=0), folder / "data" / "val")
    return folder


def test_all_corruptions_of_a_network(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = weights / "run", weights / "data"
    for more in ([], ["--corruptions"]):
        tyro.cli(evaluate, args=[str(run), "--data", str(data), "--workers", "1", *more], config=HELP)
    clean, saved = (
        json.loads((run / name / "metrics.json").read_text()) for name in ("evaluation", "evaluation-corruptions")
    )
    accuracies = saved.pop("corruptions")
    assert tuple(accuracies) == CORRUPTIONS
    assert all(len(row) == 5 and all(0 <= value <= 1 for value in row) for row in accuracies.values())
    mca = saved["metrics"].pop("mca")
    assert mca == pytest.approx(np.mean(list(accuracies.values())))
    assert 0.1 < mca < clean["metrics"]["top1"]
    assert saved["metrics"] == clean["metrics"], "all else is of the clean images"
    assert saved["reliability"] == clean["reliability"]
    assert f"mCA {100 * mca:.2f} % (40 images)" in capsys.readouterr().out
    page = (run / "evaluation-corruptions" / "report.html").read_text()
    cells = "".join(
        f'<td class="num">{100 * x:.1f}\u202f%</td>' for x in (*accuracies["fog"], np.mean(accuracies["fog"]))
    )
    assert f"<tr><td>fog</td>{cells}</tr>" in page
    model, card = load_network(run)
    loader = evaluation_loader(Recipe.from_json(card["recipe"]), data / "val")
    fog = predict(model, loader, perturb=Corruption(name="fog", severity=3, mean=loader.mean, std=loader.std))
    assert accuracies["fog"][2] == top1(fog.logits, fog.targets)


def test_frost_needs_its_photographs_before_anything_runs(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.cache_clear()
    monkeypatch.setattr(corruptions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SkdError, match=r"imagecorruptions: pip install 'skd_plugins\[corruptions\]'"):
        evaluate_weights("no such weights", corruptions=True)
    with pytest.raises(SkdError, match="give one at a time"):
        evaluate_weights(weights / "run", corruptions=True, attack="fgsm")
