"""Short versions of the campaigns with files and arguments; `make faults` runs them at full length."""

from pathlib import Path

import pytest
from faults import detectors, hostile, mistyped, mutated


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    mutated.prepare(folder)
    return folder


@pytest.mark.parametrize("kind", ["beton tables", "beton images", "folder jpeg", "checkpoint", "card", "coco"])
def test_damaged_files(kind: str, sound: Path) -> None:
    mutated.run_kind(kind, 8, sound).verdict(8)


def test_hostile_files(tmp_path: Path) -> None:
    hostile.run(9, tmp_path).verdict(9)


def test_mistyped_arguments(tmp_path: Path) -> None:
    mistyped.run(40, tmp_path).verdict(60)


@pytest.mark.parametrize("name", ["broken image", "boxes outside"])
def test_images_and_annotations_as_people_have_them(name: str, tmp_path: Path) -> None:
    """A detector's training that is killed: tests/test_train_net.py."""
    _, fine, story = detectors.case(name, tmp_path)
    assert fine, story
