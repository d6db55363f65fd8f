"""The embedded typefaces: the roles share no family and no copy, and the pictures belong to the list."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import skd_plugins
from skd_plugins.data import Source, open_source
from skd_plugins.data.datasets.glyphs import CLASSES, glyphs

LIST = Path(skd_plugins.__file__).parent / "data/datasets/glyphs.csv"
ROLES = {"train": 82, "val": 20, "test": 129}


def pixels(source: Source) -> np.ndarray:
    return np.stack([source.load(index)[:, :, 0] for index in range(len(source.targets))])


@pytest.fixture(scope="module")
def families() -> list[dict[str, str]]:
    with LIST.open() as file:
        return list(csv.DictReader(file))


def test_each_family_has_one_role_and_an_open_licence(families: list[dict[str, str]]) -> None:
    assert {role: sum(row["role"] == role for row in families) for role in ROLES} == ROLES
    stems = {role: {re.split(r"[\s_-]", row["family"])[0] for row in families if row["role"] == role} for role in ROLES}
    assert not stems["train"] & stems["val"]
    assert not (stems["train"] | stems["val"]) & stems["test"]
    allowed = {"OFL", "Apache-2.0", "CC0-1.0", "public domain", "MIT", "GPL with font exception"}
    assert {licence for row in families for licence in row["licence"].split(" and ")} == allowed


def test_no_typeface_is_a_copy_of_another() -> None:
    faces = np.concatenate([pixels(glyphs(role)).reshape(count, -1) for role, count in ROLES.items()]).astype(float)
    correlation = np.corrcoef(faces)
    np.fill_diagonal(correlation, 0)
    assert correlation.max() < 0.9


def test_training_sets_grow_from_one_another() -> None:
    small, medium, large = (open_source(name, True) for name in ("glyphs", "glyphs30", "glyphs82"))
    assert [len(each.targets) for each in (small, medium, large)] == [620, 1860, 5084]
    np.testing.assert_array_equal(pixels(small), pixels(large)[:620])
    np.testing.assert_array_equal(pixels(medium), pixels(large)[:1860])
    assert np.bincount(medium.targets).tolist() == [30] * 62


def test_the_pictures_are_of_the_listed_characters(families: list[dict[str, str]]) -> None:
    """The mean images of the training families recognise those of the test families; a wrong column would not pass."""
    training, test = open_source("glyphs82", True), open_source("glyphs_test", False)
    assert training.classes == test.classes == list(CLASSES)
    means = [pixels(source).reshape(-1, 62, 1024).mean(0) for source in (training, test)]
    rows = [(mean - mean.mean(1, keepdims=True)) / mean.std(1, keepdims=True) for mean in means]
    np.testing.assert_array_equal((rows[0] @ rows[1].T).argmax(1), np.arange(62))
    first = next(row["family"] for row in families if row["role"] == "test")
    assert test.name_of(62 - 1) == f"small z of {first}"


def test_other_letters_have_their_typefaces_scale_and_shapes_of_their_own() -> None:
    other, test = open_source("glyphs_other", False), open_source("glyphs_test", False)
    letters, characters = pixels(other).reshape(-1, 21, 32, 32), pixels(test).reshape(-1, 62, 32, 32)
    names = [other.name_of(21 * index) for index in range(len(letters))]
    assert len(names) == len(set(names)) == 42 == len(other.targets) / len(other.classes)
    assert hashlib.md5(letters.tobytes()).hexdigest() == "a2af818f2843ac9b1d5c25f555fe0e14"
    rows_of = {test.name_of(62 * index).removeprefix("digit 0 of "): index for index in range(len(characters))}
    pairs = {"Greek capital xi": "capital H", "Cyrillic capital sha": "capital H", "Cyrillic small yu": "small x"}
    for name, drawn in zip(names, letters, strict=True):
        known = characters[rows_of[name.removeprefix("Greek capital gamma of ")]]
        assert len({image.tobytes() for image in drawn} - {image.tobytes() for image in known}) == 21
        assert np.corrcoef(drawn.reshape(21, -1), known.reshape(62, -1))[:21, 21:].max() < 0.95
        for letter, character in pairs.items():
            images = drawn[other.classes.index(letter)], known[CLASSES.index(character)]
            one, two = (np.flatnonzero((image > 127).any(1))[[0, -1]] for image in images)
            assert np.abs(one - two).max() <= 1, (name, letter, "stands as its Latin partner does, within a pixel")
