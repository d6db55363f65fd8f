"""How large the project is: lines a folder, the longest files, the longest functions (`def` to their last line)."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

FOLDERS = ("skd_plugins", "detection", "recipes", "benchmarks", "tests")


def main() -> None:
    """Prints the three tables for the files that git knows, from the checkout's root."""
    files = [Path(name) for name in subprocess.check_output(["git", "ls-files", "*.py"], text=True).split()]
    texts = {file: file.read_text() for file in files if file.parts[0] in FOLDERS}
    lines = {file: text.count("\n") for file, text in texts.items()}
    functions = [
        (node.end_lineno - node.lineno + 1, f"{file}: {node.name}")
        for file, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno
    ]
    for folder in FOLDERS:
        own = [count for file, count in lines.items() if file.parts[0] == folder]
        print(f"{sum(own):7,} lines  {folder} ({len(own)} files)")
    for title, found in (("files", [(count, str(file)) for file, count in lines.items()]), ("functions", functions)):
        for code in (True, False):
            chosen = [one for one in found if one[1].startswith(("tests/", "benchmarks/")) != code]
            print(f"longest {title}, {'the project' if code else 'tests and benchmarks'}:")
            print("".join(f"{count:7,} lines  {name}\n" for count, name in sorted(chosen, reverse=True)[:5]), end="")


if __name__ == "__main__":
    main()
