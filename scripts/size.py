"""How large the project is: lines a folder, the longest files and functions, parameters, imports inside functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("skd_plugins", "detection", "recipes", "benchmarks", "tests")
PROJECT = ("skd_plugins", "detection")


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions, methods and inner functions."""
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Their number, without self and cls."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def inner_imports(tree: ast.Module) -> Iterator[str]:
    """What statements inside functions import: "own", "third-party" or "standard", one for each statement."""
    nodes = {id(node): node for function in functions(tree) for node in ast.walk(function)}
    for node in nodes.values():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["skd_plugins" if node.level else node.module or ""]
        else:
            continue
        top = names[0].partition(".")[0]
        yield "own" if top in PROJECT else "standard" if top in sys.stdlib_module_names else "third-party"


def main() -> None:
    """Prints the tables for the files that git knows, from the checkout's root."""
    files = [Path(name) for name in subprocess.check_output(["git", "ls-files", "*.py"], text=True).split()]
    texts = {file: file.read_text() for file in files if file.parts[0] in FOLDERS and file.is_file()}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lines = {file: text.count("\n") for file, text in texts.items()}
    for folder in FOLDERS:
        own = [count for file, count in lines.items() if file.parts[0] == folder]
        print(f"{sum(own):7,} lines  {folder} ({len(own)} files)")
    spans = [
        (node.end_lineno - node.lineno + 1, f"{file}: {node.name}")
        for file, tree in trees.items()
        for node in functions(tree)
        if node.end_lineno
    ]
    for title, found in (("files", [(count, str(file)) for file, count in lines.items()]), ("functions", spans)):
        for code in (True, False):
            chosen = [one for one in found if one[1].startswith(("tests/", "benchmarks/")) != code]
            print(f"longest {title}, {'the project' if code else 'tests and benchmarks'}:")
            print("".join(f"{count:7,} lines  {name}\n" for count, name in sorted(chosen, reverse=True)[:5]), end="")

    project = {file: tree for file, tree in trees.items() if file.parts[0] in PROJECT}
    loose = sorted(file.name for file in project if file.parts[:-1] == ("skd_plugins",))
    print(f"{len(loose):7,} modules at the package's root: {' '.join(loose)}")
    many = [(parameters(node), f"{file}: {node.name}") for file, tree in project.items() for node in functions(tree)]
    many = sorted((one for one in many if one[0] > 8), reverse=True)
    print(f"{len(many):7,} functions with more than 8 parameters:")
    print("".join(f"{count:7,} parameters  {name}\n" for count, name in many), end="")
    imports = [kind for tree in project.values() for kind in inner_imports(tree)]
    for kind in ("own", "third-party"):
        print(f"{imports.count(kind):7,} {kind} imports inside functions")


if __name__ == "__main__":
    main()
