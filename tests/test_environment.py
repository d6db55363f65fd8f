"""The record of what a result was made with."""

import subprocess
from pathlib import Path

import pytest

from skd_plugins.common import environment


def test_the_commit_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a repository which merely contains the environment that it is installed in."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def recorded(root: Path) -> str | None:
        monkeypatch.setattr(environment, "__file__", str(root / file))
        return environment.git_commit.__wrapped__()  # without the cache

    file, inside = Path("skd_plugins/common/environment.py"), tmp_path / "environment" / "site-packages"
    for root in (tmp_path, inside):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text("")
    assert recorded(tmp_path) is None, "no repository at all"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all of it")
    assert recorded(tmp_path) == git("rev-parse", "HEAD")
    assert recorded(inside) is None
    (tmp_path / file).write_text("# changed\n")
    assert recorded(tmp_path) == git("rev-parse", "HEAD") + "+changes"
