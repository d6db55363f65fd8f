"""One kind of error for users: every `raise` of the package and of detection, read from the source."""

import ast
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from skd_plugins.common.errors import SkdError, fail, one_line, unknown

ROOT = Path(__file__).parents[1]
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for folder in ("skd_plugins", "detection")
    for path in (ROOT / folder).rglob("*.py")
}
# What else may be raised: Python's protocols, the operating system's own errors, the end of a command.
OTHERS = {
    "AssertionError", "AttributeError", "ConnectionError", "ModuleNotFoundError", "NotImplementedError", "OSError",
    "SystemExit",
}  # fmt: skip
# Files whose ValueError is caught nearby or is a programmer's mistake, which deserves a traceback.
VALUE_ERRORS = {
    "skd_plugins/evaluation/comparison.py",
    "skd_plugins/evaluation/metrics.py",
    "skd_plugins/methods/method.py",
    "skd_plugins/weights/checkpoint.py",
    "skd_plugins/weights/manifest.py",
}


def name_of(node: ast.expr | None) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""


def defined() -> set[str]:
    """The package's exceptions, and the functions that make them."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    classes = {
        node.name
        for node in nodes
        if isinstance(node, ast.ClassDef) and any(name_of(base).endswith(("Error", "Exception")) for base in node.bases)
    }
    makers = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and name_of(node.returns) in classes}
    return classes | makers


def test_every_raise_is_ours_or_expected() -> None:
    ours, found = defined(), 0
    assert {"SkdError", "unknown"} <= ours
    for file, tree in TREES.items():
        caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Raise) or node.exc is None or name_of(node.exc) in caught:
                continue  # an error that is raised again as it came
            either = (node.exc.body, node.exc.orelse) if isinstance(node.exc, ast.IfExp) else (node.exc,)
            for name in map(name_of, either):
                found += 1
                expected = name in ours | OTHERS or (name == "ValueError" and file in VALUE_ERRORS)
                assert expected, f"{file}:{node.lineno} raises {name}; a user's error is an SkdError"
    assert found > 150


def test_every_message_is_a_sentence() -> None:
    """It names the thing, with a value or in words; one line that goes on after ``error: ``."""
    found = 0
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node) == "SkdError":
                (message,) = node.args
                found += 1
                values = any(isinstance(part, (ast.FormattedValue, ast.Name)) for part in ast.walk(message))
                texts = [part.value for part in ast.walk(message) if isinstance(part, ast.Constant)]
                text = " ".join(str(part) for part in texts)
                assert values or len(text.split()) >= 5, f"{file}:{node.lineno}: {text!r} does not name the thing"
                assert not text.endswith((".", "\n")), f"{file}:{node.lineno}: {text!r}"
    assert found > 150


def test_unknown_names_the_closest() -> None:
    assert str(unknown("method", "cs_dk", ["kd", "cs_kd"])) == "unknown method 'cs_dk'; did you mean 'cs_kd'?"
    assert str(unknown("method", "x", ["kd", "cs_kd"])) == "unknown method 'x'; known: cs_kd, kd"


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (SkdError("several\nlines  of it"), "several lines of it"),
        (OSError(36, "File name too long", "x"), "[Errno 36] File name too long: 'x'"),
    ],
)
def test_entry_points_print_one_line(error: Exception, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    @one_line
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {printed}\n"


def test_a_workers_message_comes_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise SkdError("image 3 is broken")
    except SkdError:
        caught = ExceptionWrapper(where="in a worker")
    with pytest.raises(SkdError, match="Traceback") as raised:
        caught.reraise()
    with pytest.raises(SystemExit):
        fail(raised.value)
    assert capsys.readouterr().err == "error: image 3 is broken\n"


def test_our_mistakes_keep_their_traceback() -> None:
    with pytest.raises(IndexError):
        one_line(lambda: [][1])()
