"""``skd completion``: a script that completes the command in bash and zsh.

tyro prints such scripts too (``--tyro-write-completion``), but they know no values of positional arguments and keep the
shell from completing file names, and a run's folder is our most common argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

_SCRIPT = """\
# Completes skd in bash and zsh: source <(skd completion)
[[ -z ${ZSH_VERSION-} ]] || { autoload -U +X compinit bashcompinit && compinit && bashcompinit; }
_skd() {
  local current=${COMP_WORDS[COMP_CWORD]} options= values=
  if ((COMP_CWORD == 1)); then
    options=--help values="%(commands)s"
  else
    ((COMP_CWORD > 2)) || case ${COMP_WORDS[1]} in
%(positional)s
    esac
    case ${COMP_WORDS[1]} in
%(options)s
    esac
    case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD - 1]}" in
%(values)s
    esac
  fi
  [[ $current != -* ]] || values=$options
  COMPREPLY=($(compgen -W "$values" -- "$current"))
}
complete -o default -F _skd skd # without a match the shell's own: names of files
"""


def completion_script(commands: Mapping[str, Callable[..., Any]]) -> str:
    """The script.

    Args:
        commands: by name; keyword-only parameters are options, the others positional arguments.
    """
    positional, options, values = [], [], []
    for command, function in commands.items():
        hints = get_type_hints(function)
        flags = ["--help"]
        for parameter in inspect.signature(function).parameters.values():
            choices = " ".join(_choices(hints[parameter.name]))
            if parameter.kind is not parameter.KEYWORD_ONLY:
                positional += [f'{command}) values="{choices}" ;;'] * bool(choices)
                continue
            flags.append("--" + parameter.name.replace("_", "-"))
            values += [f'"{command} {flags[-1]}") values="{choices}" ;;'] * bool(choices)
        options.append(f'{command}) options="{" ".join(flags)}" ;;')
    blocks = {"positional": positional, "options": options, "values": values}
    indented = {name: "\n".join(" " * 6 + line for line in lines) for name, lines in blocks.items()}
    return _SCRIPT % {"commands": " ".join(commands), **indented}


def _choices(hint: Any) -> Iterator[str]:
    """The strings that a type such as ``Literal["last", "best"] | None`` allows."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for part in get_args(hint):
            yield from _choices(part)
