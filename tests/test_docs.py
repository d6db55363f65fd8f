"""What README and docs say: code runs, commands and options exist, links lead somewhere, messages are in the source."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

import skd_plugins
from skd_plugins import cli, list_methods
from skd_plugins.methods import method
from skd_plugins.recipe import override

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Their blocks are one walk: bash and python in order, in one folder; a block with a title is that file.
WALKS = [DOCS / "tutorials" / name for name in ("first-run.md", "own-dataset.md")]
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str
    line: int
    not_run: bool


def blocks_of(page: Path) -> list[Block]:
    lines = page.read_text().splitlines()
    blocks: list[Block] = []
    start, fence = 0, re.compile(r"^```(\w*)(?: title=\"(.+)\")?$")
    while start < len(lines):
        opened = fence.match(lines[start])
        if not lines[start].startswith("```"):
            start += 1
            continue
        assert opened, f"{page}:{start + 1}: an unknown kind of block"
        end = lines.index("```", start + 1)
        above = next((line for line in reversed(lines[:start]) if line), "")
        text = "\n".join(lines[start + 1 : end]) + "\n"
        blocks.append(Block(opened[1], opened[2] or "", text, start + 1, bool(NOT_RUN.fullmatch(above))))
        start = end + 1
    return blocks


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python" and not block.not_run]


WITH_PYTHON = [page for page in PAGES if page not in WALKS and runnable(page)]
SLOW = DOCS / "tutorials" / "own-loop.md"  # FFCV's writer


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder and cache to be in; methods that a page registers are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    known = dict(method._METHODS)
    yield tmp_path
    method._METHODS.clear()
    method._METHODS.update(known)


def execute(source: str, where: str, line: int, namespace: dict[str, Any]) -> None:
    tree = ast.increment_lineno(ast.parse(source, where), line)
    exec(compile(tree, where, "exec"), namespace)


# ---- code ------------------------------------------------------------------------------------------------------------


def test_there_are_pages() -> None:
    assert {"README.md", "docs/tutorials/own-loop.md", "docs/tutorials/own-method.md"} <= set(map(name_of, WITH_PYTHON))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page == SLOW), id=name_of(page)) for page in WITH_PYTHON]
)
def test_python_blocks_run(page: Path, clean: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    sys.modules["page"] = type(sys)("page")  # where hints of classes that a page defines are looked up
    sys.modules["page"].__dict__.update(namespace)
    try:
        for block in runnable(page):
            execute(block.text, str(page), block.line, sys.modules["page"].__dict__)
    finally:
        del sys.modules["page"]


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKS, ids=name_of)
def test_walks(page: Path, tmp_path: Path) -> None:
    """As a reader would: every block in order; one shell, so that ``cd`` stays."""
    script = ["set -eux"]
    for number, block in enumerate(blocks_of(page)):
        if block.not_run:
            continue
        assert block.language in ("bash", "python"), f"{page}:{block.line}"
        if block.title or block.language == "python":
            (tmp_path / str(number)).write_text(block.text)
        if block.title:
            script.append(f"cp {tmp_path / str(number)} {block.title}")
        elif block.language == "python":
            script.append(f"{sys.executable} {tmp_path / str(number)}")
        else:
            script.append(block.text)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "SKD_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    reports = sorted(home.glob("*/runs/*/seed0/evaluation/metrics.json"))
    assert all(json.loads(report.read_text())["metrics"]["num_samples"] == 797 for report in reports)
    if page.stem == "own-dataset":
        assert len(reports) == 1
    else:
        assert len(reports) == 2
        last = home / "first-run" / "runs" / "resnet10t_digits.ce" / "seed0" / "metrics.jsonl"
        assert json.loads(last.read_text().splitlines()[-1])["step"] == 24, "6 epochs of 4 steps, after --resume"


@pytest.mark.slow
def test_the_notebook_runs(clean: Path) -> None:
    notebook = json.loads((DOCS / "notebooks" / "first_steps.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "outputs are stripped"
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        execute("".join(cell["source"]), f"cell {number}", 0, namespace)
    assert 0.9 < namespace["metrics"]["top1"] <= 1, "skd weights list says 3.64 % error"
    assert len(namespace["figure"].axes) == 1
    assert set(namespace["result"]) == {"loss", "output", "features", "ce", "sdd"}


# ---- commands --------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A line of a block that is one of our commands, continuation lines joined."""

    where: str
    words: list[str]


def commands_of(page: Path) -> list[Command]:
    found = []
    for block in blocks_of(page):
        if block.language not in ("", "bash"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                del words[0]
            if words and words[0] in ("skd", "python", "accelerate", "torchrun", "make"):
                found.append(Command(f"{name_of(page)}, block at line {block.line}: {line.strip()}", words))
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def options_in(words: list[str]) -> set[str]:
    """The options before a ``--``; what follows is another program's."""
    until = words.index("--") if "--" in words else len(words)
    return {word.partition("=")[0] for word in words[:until] if re.match(r"-{1,2}[a-z]", word)}


@cache
def skd_options(command: str) -> set[str]:
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"--?[a-z][\w-]*", printed.getvalue()))


@cache
def recipe_of(path: str) -> Any:
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        return runpy.run_path(str(ROOT / path))["recipe"]
    finally:
        sys.path.remove(str(ROOT / "recipes"))


def parsed_options(parser: ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings}


def check_recipe(path: str, rest: list[str], where: str) -> None:
    """Options of the recipes' command line, and overrides that its recipe takes."""
    assert options_in(rest) <= {"--data", "--out", "--resume", "--dry-run"}, where
    override(recipe_of(path), [word for word in rest if re.match(r"[a-z_.]+=", word)])


def check_command(command: Command) -> None:
    where, words = command
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, where
        return
    if words[0] == "skd" or words[1:3] == ["-m", "skd_plugins.cli"] or "skd_plugins.cli" in words:
        at = 1 if words[0] == "skd" else words.index("skd_plugins.cli") + 1
        if words[at].startswith("--tyro-"):  # completion, of all commands
            return
        assert words[at] in cli.COMMANDS, where
        assert options_in(words[at + 1 :]) <= skd_options(words[at]), where
        words = words[:at]
    script = next((number for number, word in enumerate(words) if word.endswith(".py")), len(words))
    if words[0] == "accelerate" and words[1] == "launch":
        assert options_in(words[2:script]) <= parsed_options(launch_command_parser()), where
    if words[0] == "torchrun":
        known = {text.replace("_", "-") for text in parsed_options(get_args_parser())}
        assert {text.replace("_", "-") for text in options_in(words[1:script])} - {"-m"} <= known, where
    if script == len(words) or words[script] == "own.py":  # the last one is a tutorial's
        return
    path, rest = words[script], words[script + 1 :]
    assert (ROOT / path).is_file(), where
    if path.startswith("recipes/"):
        check_recipe(path, rest, where)
    if path == "detection/train_net.py":
        check_detection(rest, where)


def check_detection(rest: list[str], where: str) -> None:
    """Options, the config's file, and that detectron2's or our configuration has the keys."""
    pytest.importorskip("detectron2")
    from detection.config import find_config, load_config
    from detection.train_net import parser

    assert options_in(rest) <= parsed_options(parser()), where
    arguments = parser().parse_args(rest)
    config = find_config(arguments.config_file)
    load_config(config, list(arguments.opts))


def test_there_are_commands() -> None:
    kinds = {command.words[0] for command in COMMANDS}
    assert kinds == {"skd", "python", "accelerate", "torchrun", "make"}
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{c.where.partition(',')[0]}-{c.words[:3]}" for c in COMMANDS])
def test_commands_exist(command: Command) -> None:
    check_command(command)


@pytest.mark.parametrize(
    "line",
    ["skd wirte x", "skd write x --outt y", "python recipes/no_such.py", "make no-such-target",
     "accelerate launch --no-such recipes/digits_ce.py", "python recipes/digits_ce.py --dry"],
)  # fmt: skip
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(Command(line, line.split()))


# ---- links, messages, the site ---------------------------------------------------------------------------------------


def nav_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from nav_of(inner)


GENERATED = re.compile(r"methods/(index|[a-z_]+)\.md")  # by docs/generate.py


def exists(target: Path) -> bool:
    inside = target.resolve().relative_to(ROOT)
    made = GENERATED.fullmatch(str(inside.relative_to("docs"))) if inside.parts[0] == "docs" else None
    return made[1] in ("index", *list_methods()) if made else target.exists()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#", target):
            assert exists(page.parent / target.partition("#")[0]), f"{page}: {target}"


def test_the_navigation_has_every_page() -> None:
    entries = list(nav_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert all(exists(DOCS / entry) for entry in entries), entries
    assert {str(page.relative_to(DOCS)) for page in PAGES[1:]} <= set(entries)


def test_the_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert {f"skd_plugins.{name}" for name in skd_plugins.__all__} <= set(named)
    detection = re.search(r"__all__ = (\[.*?\])", (ROOT / "detection" / "__init__.py").read_text(), re.DOTALL)
    assert detection
    assert {f"detection.{name}" for name in ast.literal_eval(detection[1])} <= set(named)


def quoted_messages() -> list[str]:
    headings = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    return [str(heading) for heading in headings]


@cache
def source_texts() -> str:
    """Every string of the package and of detection, pieces of one message joined, with … for what is filled in."""
    texts = []
    for folder in ("skd_plugins", "detection"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
    return "\n".join(texts)


def test_there_are_messages() -> None:
    assert len(quoted_messages()) >= 25
    assert len(set(quoted_messages())) == len(quoted_messages())


@pytest.mark.parametrize("message", quoted_messages())
def test_the_messages_are_in_the_source(message: str) -> None:
    assert message.count("…") < 8
    assert len(message.replace("…", "").strip()) > 8, "there is something to find"
    assert message.strip("… ") in source_texts()


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("mkdocs_gen_files")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    index = (tmp_path / "site" / "methods" / "index.html").read_text()
    for name in list_methods():
        page = (tmp_path / "site" / "methods" / name / "index.html").read_text()
        assert f'href="{name}/"' in index
        assert 'class="doc doc-heading"' in page, f"the docstring of {name}"
    commands = (tmp_path / "site" / "commands" / "index.html").read_text()
    assert [name for name in cli.COMMANDS if f"usage: skd {name} " not in commands] == []
    for page in (tmp_path / "site").rglob("*.html"):  # works without a network
        assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?://", page.read_text()), page
