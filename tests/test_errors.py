"""One kind of error for users: every `raise` of the package and of detection, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skd_plugins.common.errors import SkdError, fail, one_line, unknown

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "skd_plugins").rglob("*.py"), *(ROOT / "detection").rglob("*.py")])
# Functions that make an SkdError, and its subclasses.
OURS = {"SkdError", "NoCardError", "unknown", "unwritable", "_unwritten", "misfit"}
# What else may be raised, and where: caught and turned into an SkdError nearby, Python's own protocols, or mistakes of
# programmers, which deserve a traceback.
OTHERS = {
    ("skd_plugins/__init__.py", "AttributeError"): "module __getattr__",
    ("skd_plugins/commands/doctor.py", "SystemExit"): "skd doctor found a problem",
    ("skd_plugins/data/datasets/archives.py", "_unusable"): "an SkdError, or the system's own error",
    ("skd_plugins/data/datasets/dogs.py", "ValueError"): "caught: the list is damaged",
    ("skd_plugins/data/beton/ffcv_writer.py", "ValueError"): "caught: the image is named",
    ("skd_plugins/common/locks.py", "BlockingIOError"): "caught: somebody else has the lock",
    ("skd_plugins/data/beton/native/build.py", "BuildError"): "its caller goes on without the decoder",
    ("skd_plugins/training/engine.py", "SystemExit"): "a signal",
    ("skd_plugins/common/errors.py", "SystemExit"): "the end of every error",
    ("skd_plugins/evaluation/__init__.py", "AttributeError"): "module __getattr__",
    ("skd_plugins/evaluation/comparison.py", "ValueError"): "caught: the file is no metrics file",
    ("skd_plugins/evaluation/metrics.py", "ValueError"): "caught: the file is no metrics file",
    ("skd_plugins/methods/method.py", "NotImplementedError"): "the base class",
    ("skd_plugins/methods/method.py", "ValueError"): "a programmer's batch, a name registered twice",
    ("skd_plugins/training/plan.py", "AssertionError"): "unreachable",
    ("skd_plugins/weights/checkpoint.py", "ValueError"): "caught: the file is damaged",
    ("skd_plugins/weights/download.py", "ConnectionError"): "caught: no address has the file",
    ("detection/train_net.py", "SystemExit"): "detectron2 is missing",
}
# Messages without a value: what they are about is said in words.
PLAIN = (
    "--aug-splits can't be used",
    "--mixup-mode half",
    "--naflex-loader makes",
    "--torchscript hides",
    "DATASETS.TRAIN and",
    "MODEL.TIMM.NAME is empty",
    "SOLVER.AMP.ENABLED needs a GPU",
    "a 'clean' segment needs",
    "a process of FFCV",
    "adacos needs",
    "common mistakes need",
    "from .beton files, evaluation crops",
    "give a config, for example",
    "give the folder of the scale",
    "gradient analysis:",
    "hold_out needs",
    "label_smoothing brings",
    "no probability of this batch",
    "nothing to compare",
    "precision=fp16 needs a GPU",
    "reading .beton files",
    "several processes evaluate",
    "skd weights list takes no names",
    "the method's forward made",
    "this data set is a stream",
    "virtual_softmax needs",
    "which artefact?",
)


def raises() -> Iterator[tuple[str, ast.Raise, ast.Module]]:
    for path in FILES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise):
                yield path.relative_to(ROOT).as_posix(), node, tree


def called(node: ast.expr | None) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""


def test_every_raise_is_ours_or_listed() -> None:
    found, used = 0, set()
    for file, node, tree in raises():
        name = called(node.exc)
        caught = {handler.name for handler in ast.walk(tree) if isinstance(handler, ast.ExceptHandler)}
        if node.exc is None or name in caught:
            continue  # raised again as it came
        if isinstance(node.exc, ast.IfExp):
            assert called(node.exc.body) in OURS
            assert called(node.exc.orelse) in OURS
            continue
        found += 1
        if name in OURS:
            continue
        assert (file, name) in OTHERS, f"{file}:{node.lineno} raises {name}: an SkdError, or a line in OTHERS"
        used.add((file, name))
    assert found > 150
    assert used == set(OTHERS), f"not raised any more: {set(OTHERS) - used}"


def test_every_message_names_a_thing() -> None:
    """A literal or an f-string with a value in it; or one of a few that name it in words."""
    seen, plain = 0, set()
    calls = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node) in ("SkdError", "NoCardError")
    ]
    for path, node in calls:
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        assert len(node.args) == 1, where
        message = node.args[0]
        seen += 1
        if any(isinstance(part, (ast.FormattedValue, ast.Name, ast.Attribute, ast.Call)) for part in ast.walk(message)):
            continue  # a value, or a message that was made before
        assert isinstance(message, ast.Constant), where
        words = [begin for begin in PLAIN if message.value.startswith(begin)]
        assert words, f"{where}: {message.value!r} has no value in it: name the thing, or review it in PLAIN"
        plain.update(words)
    assert seen > 150
    assert plain == set(PLAIN), f"not there any more: {set(PLAIN) - plain}"


def test_one_base() -> None:
    from skd_plugins.weights import NoCardError

    assert issubclass(NoCardError, SkdError)
    assert str(unknown("method", "cs_dk", ["cs_kd"])) == "unknown method 'cs_dk'; did you mean 'cs_kd'?"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        fail(SkdError("several\nlines  of it"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: several lines of it\n"


def test_a_message_of_a_worker_comes_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise SkdError("image 3 is broken")
    except SkdError:
        caught = ExceptionWrapper(where="in a worker")
    with pytest.raises(SkdError, match="Traceback") as raised:
        caught.reraise()
    with pytest.raises(SystemExit):
        fail(raised.value)
    assert capsys.readouterr().err == "error: image 3 is broken\n"


@pytest.mark.parametrize("error", [SkdError("bad x"), OSError(36, "File name too long", "x")])
def test_entry_points_print_it(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @one_line
    def main() -> None:
        raise error

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == f"error: {error}\n"


def test_mistakes_of_ours_keep_their_traceback() -> None:
    code = "from skd_plugins.common.errors import one_line\n@one_line\ndef main(): [][1]\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "IndexError" in done.stderr


def test_text_in_another_encoding_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @one_line
    def main() -> None:
        b"\xfe".decode()

    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "UTF-8")
    with pytest.raises(UnicodeDecodeError):  # not the machine's fault
        main()
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "ISO-8859-9")
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.endswith("is written in ISO-8859-9: set LC_ALL=C.UTF-8\n")
