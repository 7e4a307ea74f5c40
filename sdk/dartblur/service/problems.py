"""What is wrong with a config file, in lines for people: ``streams.door.hold: expected ..., got ...``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..stream.uris import shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LONGEST = 60

_EXPECTED: dict[str, str] = {
    "bool_type": "true or false",
    "dict_type": "keys and their values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "keys and their values",
    "path_type": "the name of a file",
    "string_too_short": "some text",
    "string_type": "text",
}
"""By pydantic's name of the error; what is in braces comes with the error."""


class ConfigError(InputError):
    """A config file can't be used.

    Attributes:
        problems: all that is wrong with it, one line each; the message is these lines.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def problems_of(
    error: ValidationError, document: Any, keys_at: Callable[[Sequence[int | str]], Sequence[str]]
) -> list[str]:
    """A line for each error.

    Args:
        error: of the schema.
        document: what was given, before passwords were put into it: messages show parts of it.
        keys_at: the keys that there are at a place.
    """
    return [_line(each, document, keys_at) for each in error.errors(include_url=False)]


def _line(error: ErrorDetails, document: Any, keys_at: Callable[[Sequence[int | str]], Sequence[str]]) -> str:
    kind, place, context = error["type"], error["loc"], error.get("ctx", {})
    of_key = bool(place) and place[-1] == "[key]"
    if of_key:
        place = place[:-1]
    path = ".".join(map(str, place)) or "the file"
    if kind == "missing":
        return f"{path}: expected a value, the key is missing: add it"
    if kind == "extra_forbidden":
        keys = keys_at(place[:-1])
        near = get_close_matches(str(place[-1]), keys, 1)
        return f"{path}: unknown key: " + (f"did you mean {near[0]}?" if near else f"expected {', '.join(keys)}")
    if kind == "value_error":
        return f"{path}: {shown(context['error'])}"
    if of_key:
        return f"{path}: expected a name of letters, digits and ._-, at most 64 and a letter or digit first: rename it"
    values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
    expected = _EXPECTED[kind].format(**values).replace("'", "") if kind in _EXPECTED else error["msg"]
    return f"{path}: expected {expected}, got {_told(_at(document, place))}"


def _at(document: Any, place: Sequence[int | str]) -> Any:
    for key in place:
        if isinstance(document, Mapping) or (isinstance(document, list) and isinstance(key, int)):
            document = document[key]  # type: ignore[index]
    return document


def _told(value: Any) -> str:
    """What came, in the words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, (dict, list)):
        what = "keys and their values" if isinstance(value, dict) else "a list"
        return what if value else f"{what}, empty"
    text = shown(repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
