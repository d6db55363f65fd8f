"""Writes the pages of the methods while mkdocs builds, one for each that is registered, and the help of the commands.

Run by mkdocs-gen-files. The package is imported, not read as text: a method's segments and the cost of its step depend
on its arguments, so only an instance with the defaults tells them. The pages' text is the docstrings', by mkdocstrings.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
from contextlib import redirect_stdout, suppress
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, whatever is installed

from skd_plugins import get_method
from skd_plugins.cli import COMMANDS, main
from skd_plugins.methods.overview import method_rows

INDEX = """# Methods

Every method is one `nn.Module` in one file. `create_task(NAME, model)` makes a task of it, `method=NAME` puts it in a
recipe, `skd list methods` prints this table. How to write another one: [your own method](../tutorials/own-method.md).

| method | what it is | batch | extra parameters | step |
| --- | --- | --- | ---: | ---: |
{rows}

Batch: its segments, with as many images each. Extra parameters: in training only, on a ResNet-50 with 1,000 classes.
Step: passes through the network over those of cross-entropy, counted (a forward pass is 1, a backward pass 2) with the
default arguments; heads and data loading are not counted, and a teacher counts as a network like the student.
"""
PAGE = """# {name}

`create_task("{name}", model, ...)`, or `method="{name}"` in a recipe. Batch: {batch}. Step: {cost:.2f} of
cross-entropy's.

::: {path}
"""

lines, pages = [], ["methods/index.md"]
for row in method_rows():
    method = get_method(row.name)
    page, batch = f"methods/{row.name}.md", " ".join(row.segments)
    path = f"{method.__module__}.{method.__qualname__}"
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(PAGE.format(name=row.name, path=path, batch=batch, cost=row.cost))
    lines.append(f"| [`{row.name}`]({row.name}.md) | {row.source} | {batch} | {row.extra:,} | {row.cost:.2f} |")
    pages.append(page)
with mkdocs_gen_files.open("methods/index.md", "w") as file:
    file.write(INDEX.format(rows="\n".join(lines)))

os.environ["COLUMNS"] = "100"  # how wide the help is
with mkdocs_gen_files.open("commands.md", "a") as file:
    for command in COMMANDS:
        with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
            main([command, "--help"])
        shown = [textwrap.fill(line.rstrip(), 100) for line in printed.getvalue().strip().splitlines()]
        file.write("\n".join([f"\n## skd {command}\n", "```text", *shown, "```\n"]))

for section in mkdocs_gen_files.config.nav or []:
    if "Methods" in section:
        section["Methods"] = pages
