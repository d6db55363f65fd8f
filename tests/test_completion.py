"""``skd completion``: its script, in a real bash."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from skd_plugins.cli import COMMANDS, main


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    main(["completion"])
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def complete(script: Path, *words: str) -> list[str]:
    """What the shell would offer for the last word."""
    commands = 'source "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _skd; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-uc", commands, "bash", script, *words], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.split()


def test_commands(script: Path) -> None:
    assert complete(script, "skd", "") == list(COMMANDS)
    assert complete(script, "skd", "e") == ["evaluate", "export"]
    assert complete(script, "skd", "--") == ["--help"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("weights ", "list download verify path"),
        ("list m", "methods models"),
        ("evaluate --which ", "last best"),
        ("evaluate run --attack p", "pgd"),
        ("write --sp", "--split"),
        ("reproduce --l", "--list"),
        # Empty, so that bash goes on with the names of files.
        ("evaluate ru", ""),
        ("evaluate --out ", ""),
        ("weights download ", ""),
        ("compare run ", ""),
        ("nothing ", ""),
        ("nothing --", ""),
    ],
)
def test_what_is_offered(words: str, offered: str, script: Path) -> None:
    assert complete(script, "skd", *words.split(" ")) == offered.split()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_of_the_help_is_offered(
    command: str, script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    described = re.findall(r"^[│ ] ?(?:-h, )?(--[a-z][a-z0-9-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert "--help" in described
    assert complete(script, "skd", command, "--") == described


def test_file_names_are_completed_where_nothing_else_is(script: Path) -> None:
    registered = subprocess.run(
        ["bash", "--norc", "-c", 'source "$1"; complete -p skd', "bash", script],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert registered.stdout == "complete -o default -F _skd skd\n"


def test_the_script_runs_in_zsh(script: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("no zsh")
    done = subprocess.run([zsh, "-f", "-c", 'source "$1" && print $_comps[skd]', "zsh", script],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == "_bash_complete -o default -F _skd\n", done.stderr
