"""The examples, with the libraries that they are for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", [
    "plain_torch",
    "with_accelerate",
    pytest.param("with_lightning", marks=pytest.mark.slow),  # `make slow` installs Lightning and transformers
    pytest.param("with_transformers", marks=pytest.mark.slow),
])  # fmt: skip
def test_an_example_learns(name: str) -> None:
    if name.startswith("with_"):
        pytest.importorskip(name.removeprefix("with_"))
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py", "4"], capture_output=True, text=True, check=True)
    found = re.search(r"error: ([\d.]+)%", done.stdout)
    assert found is not None
    assert float(found[1]) < 75, "chance is 98.4"
    code = (FOLDER / f"{name}.py").read_text().splitlines()
    assert len(code) < 60
