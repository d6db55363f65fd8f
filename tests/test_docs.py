"""What README and docs say: code runs, commands and options exist, links lead somewhere, messages are in the source."""

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
from types import ModuleType
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
WALKS = [DOCS / "tutorials" / name for name in ("first-run.md", "own-dataset.md", "own-objects.md")]
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
        if lines[start].startswith("```"):
            opened = fence.match(lines[start])
            assert opened, f"{page}:{start + 1}: an unknown kind of block"
            end = lines.index("```", start + 1)
            above = next((line for line in reversed(lines[:start]) if line), "")
            text = "\n".join(lines[start + 1 : end]) + "\n"
            blocks.append(Block(opened[1], opened[2] or "", text, start + 1, bool(NOT_RUN.fullmatch(above))))
            start = end
        start += 1
    return blocks


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python" and not block.not_run]


WITH_PYTHON = [page for page in PAGES if page not in WALKS and runnable(page)]
assert {"README.md", "docs/tutorials/own-loop.md", "docs/tutorials/own-method.md"} <= set(map(name_of, WITH_PYTHON))
SLOW = DOCS / "tutorials" / "own-loop.md"  # FFCV's writer


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and cache to be in; methods that a page registers are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(method, "_METHODS", dict(method._METHODS))


def execute(source: str, where: str, line: int, namespace: dict[str, Any]) -> None:
    tree = ast.increment_lineno(ast.parse(source, where), line)
    exec(compile(tree, where, "exec"), namespace)


# ---- code ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page == SLOW), id=name_of(page)) for page in WITH_PYTHON]
)
def test_python_blocks_run(page: Path, clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where hints of classes that a page defines are looked up
    for block in runnable(page):
        execute(block.text, str(page), block.line, module.__dict__)


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKS, ids=name_of)
def test_walks(page: Path, tmp_path: Path) -> None:
    """As a reader would: every block in order; one shell, so that ``cd`` stays."""
    script = ["set -eux"]
    for number, block in enumerate(block for block in blocks_of(page) if not block.not_run):
        assert block.language in ("bash", "python"), f"{page}:{block.line}"
        file = tmp_path / str(number)
        file.write_text(block.text)
        run = f"{sys.executable} {file}" if block.language == "python" else block.text
        script.append(f"cp {file} {block.title}" if block.title else run)
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
    assert len(reports) == {"first-run": 2, "own-dataset": 1, "own-objects": 0}[page.stem]
    if page.stem == "own-objects":
        found = json.loads((home / "own-objects" / "runs" / "shapes" / "results.json").read_text())["bbox"]
        assert found["AP50"] > 80
        assert {"AP-circle", "AP-square", "AP-triangle"} <= set(found)
    if page.stem == "first-run":
        last = home / "first-run" / "runs" / "resnet10t_digits.ce" / "seed0" / "metrics.jsonl"
        assert json.loads(last.read_text().splitlines()[-1])["step"] == 24, "6 epochs of 4 steps, after --resume"


@pytest.mark.slow
def test_the_notebook_runs(clean: None) -> None:
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


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Where the page has one of our commands, and its words, continuation lines joined."""
    for block in blocks_of(page):
        if block.language not in ("", "bash"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                del words[0]
            if words and words[0] in ("skd", "python", "accelerate", "torchrun", "make"):
                yield f"{name_of(page)}, block at line {block.line}: {line.strip()}", words


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


LAUNCHERS = {"accelerate": launch_command_parser, "torchrun": get_args_parser}


def parsed_options(parser: ArgumentParser) -> set[str]:
    return {text.replace("_", "-") for action in parser._actions for text in action.option_strings}


def check_command(where: str, words: list[str]) -> None:
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, where
        return
    if words[0] == "skd" or "skd_plugins.cli" in words:
        at = 1 if words[0] == "skd" else words.index("skd_plugins.cli") + 1
        if not words[at].startswith("--tyro-"):  # completion, of all commands
            assert words[at] in cli.COMMANDS, where
            assert options_in(words[at + 1 :]) <= skd_options(words[at]), where
        words = words[:at]
    script = next((number for number, word in enumerate(words) if word.endswith(".py")), len(words))
    if words[0] in LAUNCHERS:
        given = {text.replace("_", "-") for text in options_in(words[1:script])}
        assert given - {"-m"} <= parsed_options(LAUNCHERS[words[0]]()), where
    if script == len(words) or words[script] == "own.py":  # the last one is a tutorial's
        return
    path, rest = words[script], words[script + 1 :]
    assert (ROOT / path).is_file(), where
    if path.startswith("recipes/"):
        assert options_in(rest) <= {"--data", "--out", "--resume", "--dry-run"}, where
        override(recipe_of(path), [word for word in rest if re.match(r"[a-z_.]+=", word)])
    if path == "detection/train_net.py":
        pytest.importorskip("detectron2")
        from detection.config import find_config, load_config
        from detection.train_net import parser

        assert options_in(rest) <= {text for action in parser()._actions for text in action.option_strings}, where
        arguments = parser().parse_args(rest)
        load_config(find_config(arguments.config_file), list(arguments.opts))


def test_commands_exist() -> None:
    commands = [command for page in PAGES for command in commands_of(page)]
    assert {words[0] for _, words in commands} == {"skd", "python", "accelerate", "torchrun", "make"}
    assert len(commands) > 60
    for where, words in commands:
        check_command(where, words)
    for wrong in ("skd wirte x", "skd write x --outt y", "python recipes/no_such.py", "make no-such-target",
                  "accelerate launch --no-such recipes/digits_ce.py"):  # fmt: skip
        with pytest.raises(AssertionError):
            check_command(wrong, wrong.split())


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


def test_links_lead_somewhere_and_the_navigation_has_every_page() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"https?://|#", target):
                assert exists(page.parent / target.partition("#")[0]), f"{page}: {target}"
    entries = list(nav_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert all(exists(DOCS / entry) for entry in entries), entries
    assert {str(page.relative_to(DOCS)) for page in PAGES[1:]} <= set(entries)


def test_the_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert {f"skd_plugins.{name}" for name in skd_plugins.__all__} <= set(named)
    detection = re.search(r"__all__ = (\[.*?\])", (ROOT / "detection" / "__init__.py").read_text(), re.DOTALL)
    assert detection
    assert {f"detection.{name}" for name in ast.literal_eval(detection[1])} <= set(named)


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


def test_the_messages_are_in_the_source() -> None:
    source = source_texts()
    messages = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(set(messages)) == len(messages) >= 25
    for message in messages:
        assert message.count("…") < 8, message
        assert len(message.replace("…", "").strip()) > 8, f"{message}: there is something to find"
        assert message.strip("… ") in source, message


def test_the_site_builds(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "mkdocs_gen_files"):
        pytest.importorskip(package)
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
