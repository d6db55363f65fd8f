"""Arguments and recipe values that nobody meant: exit code 2 and the reason, never a traceback."""

import contextlib
import io
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from skd_plugins import list_methods
from skd_plugins.cli import COMMANDS, main
from skd_plugins.training.main import main as recipe_main

from .common import TINY, Report

# What may follow a command; `demo` and `timm-train`, say, would do long work, were they right by chance.
_NAMES = sorted(set(COMMANDS) - {"demo", "timm-train", "torchvision-train", "reproduce"})
_PLACES = """
. / /dev/null no/where .. * file.json folder hf-hub:a/b timm/no torchvision/resnet18.NO resnet10t_digits.no
local-dir:folder ~ - $HOME cub200 digits mit67 list path verify methods 0 -1 1e400 nan true
"""
_OPTIONS = """
--out --root --data --split --part --which --eps --attack --workers --batch-size --max-resolution --raw-share
--jpeg-quality --name --format --tag --url --raw --folder --subset --per-class --nonsense
"""
_WORDS = st.one_of(
    st.sampled_from([*_PLACES.split(), "", "ä ö", "a" * 300]),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12),
    st.sampled_from(_OPTIONS.split()),
)
_COMMANDS = st.tuples(st.sampled_from(_NAMES), st.lists(_WORDS, max_size=6))
_ODD = """
null true NaN Infinity -Infinity 1e999 -1 0 1 2.5 1e-4 [] {} [1,2,3] {"a":1} [[1]] x ../x a/b -0.0 ce resnet18 "é" {
{"base":"cs_kd"} {"weight":-1} {"temperature":0} ["tensorboard"]
"""
_VALUES = st.one_of(
    st.sampled_from([*_ODD.split(), "", "9" * 40]), st.integers().map(str), st.floats().map(str),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
)  # fmt: skip
_FIELDS = [*TINY.to_json(), "method_args.weight", "method_args.base", "model_args.channels", "x", "epochs.x"]
_OVERRIDE = st.one_of(
    st.tuples(st.sampled_from(_FIELDS), _VALUES).map("=".join),
    st.sampled_from(list_methods()).map("method={}".format),
    _VALUES,
)
_OVERRIDES = st.lists(_OVERRIDE, min_size=1, max_size=4)


def run(count: int, folder: Path) -> Report:
    """`count` command lines of ``skd`` and as many of a recipe."""
    report = Report()
    place = folder / "here"
    (place / "folder").mkdir(parents=True)
    (place / "file.json").write_text("{}")
    before, old = os.getcwd(), dict(os.environ)
    os.chdir(place)
    os.environ.update(HF_HUB_OFFLINE="1", SKD_CACHE=str(place / "cache"), HOME=str(place), COLUMNS="120")
    options = settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:

        @options
        @given(_COMMANDS)
        def commands(case: tuple[str, list[str]]) -> None:
            _one(report, [case[0], *case[1]], lambda: main([case[0], *case[1]]))

        @options
        @given(_OVERRIDES)
        def overrides(case: list[str]) -> None:
            _one(report, case, lambda: recipe_main(TINY, ["--dry-run", *case]))

        commands()
        overrides()
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(old)
    return report


def _one(report: Report, arguments: list[str], call: Callable[[], None]) -> None:
    out, errors = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            call()
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            code = traceback.format_exc()
    text = errors.getvalue()
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    boxed = "For full helptext" in text  # the parser's own message about arguments
    fine = code in (0, None) or (code == 2 and (len(lines) == 1 or boxed))
    what = "accepted" if code in (0, None) else "refused in one line" if lines else "refused by the parser"
    report.add(what if fine else "traceback", fine, f"{json.dumps(arguments)}: {code} {text[-300:]}")
