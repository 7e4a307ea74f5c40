"""Reads a YAML file: no key twice, and ``${NAME}`` for what shouldn't stand in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..stream.media.files import reason
from ..stream.uris import shown

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_yaml(path: Path) -> Any:
    """What the file says, as Python has it.

    Raises:
        InputError: it can't be read, isn't YAML (with the line), or pyyaml isn't installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise InputError("serve: needs pyyaml: pip install 'dartblur-edge[live]'") from error
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected YAML as text in UTF-8, got other bytes") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {reason(error)}") from error
    try:
        return yaml.load(text, _loader(yaml))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        # No part of the file is shown: it may hold a password.
        raise InputError(f"{place}: {shown(error.problem or 'not YAML')}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML: {' '.join(str(error).split())}") from None


def _loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """PyYAML's, which would let the last of two equal keys win without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in seen:
                    problem = f"{key.value}: expected each key once, got it twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
            mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return mapping

    return Loader


def expanded(given: Any, problems: list[str], path: str = "", environ: Mapping[str, str] | None = None) -> Any:
    """The same with each ``${NAME}`` in a text replaced by that environment variable; ``$${`` stands for ``${``.

    Args:
        given: what `read_yaml` gave.
        problems: gets a line for each variable that isn't there.
        path: of what is given, for those lines.
        environ: the variables; None for those of this process.
    """
    variables = os.environ if environ is None else environ
    if isinstance(given, dict):
        return {
            key: expanded(value, problems, f"{path}.{key}" if path else str(key), variables)
            for key, value in given.items()
        }
    if isinstance(given, list):
        return [expanded(value, problems, f"{path}.{number}", variables) for number, value in enumerate(given)]
    if not isinstance(given, str):
        return given

    def value_of(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if not _NAME.fullmatch(name):
            problems.append(f"{path}: expected the name of an environment variable in ${{...}}, got {name!r}")
        elif name not in variables:
            problems.append(f"{path}: expected the environment variable {name}, it isn't set: set it")
        return variables.get(name, match[0])

    return _VARIABLE.sub(value_of, given)
