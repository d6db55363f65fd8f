"""The record of what a result was made with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import skd_plugins

CODE = "from skd_plugins.common.environment import git_commit; print(git_commit())"


def test_the_commit_is_the_packages_own(tmp_path: Path) -> None:
    """Not that of a repository which merely contains the environment that it is installed in."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def recorded(root: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", CODE], cwd=root, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    inside = tmp_path / "environment" / "site-packages"
    package = Path(skd_plugins.__file__).parent
    for root in (tmp_path, inside):
        (root / "skd_plugins").mkdir(parents=True)
        for name in ("__init__.py", "environment.py"):
            shutil.copy(package / name, root / "skd_plugins")
    assert recorded(tmp_path) == "None", "no repository at all"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all of it")
    assert recorded(tmp_path) == git("rev-parse", "HEAD")
    assert recorded(inside) == "None"
    with (tmp_path / "skd_plugins" / "environment.py").open("a") as file:
        file.write("# changed\n")
    assert recorded(tmp_path) == git("rev-parse", "HEAD") + "+changes"
