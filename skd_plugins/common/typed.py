"""Arguments that come from a command line or a file, checked against type hints (by pydantic)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import SkdError, unknown


def check_value(value: Any, hint: Any, *, what: str) -> Any:
    """`value` converted to the type `hint`; raises `SkdError` that names `what`."""
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise SkdError(f"{what} should be {reason}, got {value!r}") from None


def first_problem(error: ValidationError) -> str:
    """Where the first thing is that is wrong, and what."""
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or 'content'}: {first['msg'].removeprefix('Value error, ')}"


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """Making one costs more than all its checks: a plan of hundreds of recipes would take seconds."""
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], *, what: str, skip: Sequence[str] = ("self",)
) -> dict[str, Any]:
    """Keyword arguments for `function`, each converted to its annotation.

    Unknown names are refused, and so is it when one without a default is missing.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name not in skip]
    for name in arguments:
        if name not in known:
            if not known:
                raise SkdError(f"{what} takes no arguments, got {name!r}")
            raise unknown(f"argument of {what}", name, known)
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise SkdError(f"{what} needs the argument {name!r}")
    return {name: check_value(value, hints[name], what=f"{what}: {name}") for name, value in arguments.items()}


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b.c=x"]`` as ``{"a": 1, "b": {"c": "x"}}``; a value that is not JSON stays a string."""
    result: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SkdError(f"expected field=value, got {text!r}")
        *parents, leaf = name.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise SkdError(f"{text!r} sets a part of {parent!r}, which an earlier argument set as a whole")
        place[leaf] = _json_or_text(value)
    return result


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)
