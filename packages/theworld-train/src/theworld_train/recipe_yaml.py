"""YAML as recipes use it: version 1.2's plain values, and no key twice.

PyYAML reads version 1.1, in which ``2e-5`` is text, ``off`` is false and ``1:30`` is ninety, and of a key that stands
twice it silently takes the last.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    "merge": (r"<<", "<"),
}
"""Of each tag: what it looks like, and its first characters. Not-a-number and infinity are no settings."""


_MOST = 100_000
"""Values of a recipe: ten aliases, each a list of ten of the one before, are ten thousand million."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"{key.value} stands here twice", key.start_mark)
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would take for something else than text."""

    yaml_implicit_resolvers = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, (_looks, _starts) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _first = [character if character != "\0" else "" for character in _starts]
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_looks})\Z"), _first)


def load_yaml(text: str) -> Any:
    """Read it; what an alias stands for is a copy, so that changing one place changes no other.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice or one that is no text, or is larger than any recipe.
    """
    try:
        return _unshared(yaml.load(text, _Loader), iter(range(_MOST)))  # its base is the safe one
    except RecursionError as error:
        raise yaml.YAMLError("lists or mappings stand in each other too deep") from error


def dump_yaml(content: Any) -> str:
    """In the order given, so that ``load_yaml`` reads the same again; tuples become lists."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _unshared(node: Any, left: Iterator[int], within: tuple[int, ...] = ()) -> Any:
    if next(left, None) is None:
        raise yaml.YAMLError(f"with its aliases copied it has more than {_MOST} values")
    if id(node) in within:
        raise yaml.YAMLError("an alias stands inside of what it stands for")
    if isinstance(node, dict):
        if wrong := [key for key in node if not isinstance(key, str)]:
            raise yaml.YAMLError(f"the key {wrong[0]!r} is no text")
        return {key: _unshared(value, left, (*within, id(node))) for key, value in node.items()}
    return [_unshared(value, left, (*within, id(node))) for value in node] if isinstance(node, list) else node


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{error.problem}"
