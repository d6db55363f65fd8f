"""A short version of the campaign against detection; `make faults` runs it at full length."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import detectors


def test_annotations_and_images_as_people_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("broken image", "boxes outside")
    monkeypatch.setattr(detectors, "CASES", {name: detectors.CASES[name] for name in chosen})
    detectors.run(3, tmp_path).verdict(3)
