"""Checks arguments from a command line or a file against type hints, with pydantic."""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from .errors import SkdError, unknown


def check_value(value: Any, hint: Any, *, what: str) -> Any:
    """Converts a value to the type `hint`; `what` is its name in the error."""
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise SkdError(f"{what} should be {reason}, got {value!r}") from None


def first_problem(error: ValidationError) -> str:
    """The place and the reason of the first error."""
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = re.sub(r"^Value error, | or instance of \w+$", "", first["msg"])  # the names of our classes say nothing
    return f"{place or 'content'}: {reason}"


def check_fields(values: object, fields: type[BaseModel], *, what: str) -> dict[str, Any]:
    """The object as it is, if it has the fields of `fields`; `what` begins the error."""
    try:
        fields.model_validate(values)
    except ValidationError as error:
        raise SkdError(f"{what}: {first_problem(error)}") from None
    assert isinstance(values, dict)
    return values


class _Object(BaseModel):
    """Any object."""


def read_json(path: Path, fields: type[BaseModel] = _Object, *, what: str) -> dict[str, Any]:
    """The object in a JSON file, see `check_fields`; `what` says what the file should be."""
    try:
        content = from_json(path.read_bytes())  # also refuses deep nesting, on which json.loads and others give up
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise SkdError(f"{path} is not {what}: {error}") from None
    return check_fields(content, fields, what=f"{path} is not {what}")


@cache  # making an adapter takes longer than all its checks in a plan of hundreds of recipes
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], *, what: str, skip: Sequence[str] = ("self",)
) -> dict[str, Any]:
    """Converts keyword arguments to the annotated types of `function`; unknown and missing names are errors."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name not in skip]
    for name in arguments:
        if not known:
            raise SkdError(f"{what} takes no arguments, got {name!r}")
        if name not in known:
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
                raise SkdError(f"{text!r} sets a part of {parent!r}, but an earlier argument sets all of it")
        try:
            place[leaf] = json.loads(value)
        except ValueError:
            place[leaf] = {"True": True, "False": False, "None": None}.get(value, value)
    return result
