"""What pydantic finds wrong with a recipe, as one sentence of fact with the field's full name, and one of remedy."""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from theworld_train.recipe import Recipe
from theworld_train.recipe_fields import elsewhere, known_at

_FIRST = ("extra_forbidden", "literal_error", "union_tag_invalid")
"""Said before others: a misspelt name makes the right one missing."""
_OR_INSTANCE = re.compile(" or (instance of .*|object to extract fields from)$")
"""What only those who write Python can give."""


def one_line(error: ValidationError, raw: Any, root: Any = Recipe) -> str:
    """The first of the problems that ``raw`` has; ``root`` is the type that it should be of."""
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] not in _FIRST)[0]
    location, context = found["loc"], found.get("ctx", {})
    path, value = path_of(location, raw), _shown(found["input"])
    kind = f"{path}.kind".lstrip(".")
    if found["type"] == "extra_forbidden":
        return unknown(path, str(location[-1]), known_at(location[:-1], root), root=root)
    if found["type"] == "missing":
        return f"{path} is missing. Give it."
    if found["type"] == "value_error":
        return str(context["error"])
    if found["type"] == "union_tag_not_found":
        return f"{kind} is missing. Use one of: {', '.join(known_at(location, root))}."
    if found["type"] == "union_tag_invalid":
        return unknown(kind, context["tag"], known_at(location, root), is_value=True)
    if location and location[-1] == "[key]":
        return unknown(path, str(location[-2]), context["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    if found["type"] == "too_short":
        return f"{path} is {value}. Give at least one."
    if found["type"] == "string_pattern_mismatch":
        return f"{path} is {value}. Use letters, digits, and _ . - only, and begin with neither . nor -."
    allowed = found["msg"].replace("tuple", "list").replace("dictionary", "mapping").replace("Input", "It")
    return f"{path} is {value}. {_OR_INSTANCE.sub('', allowed)}."


def unknown(path: str, name: str, known: Sequence[str], *, is_value: bool = False, root: Any = Recipe) -> str:
    """A name, or a value if ``is_value``, that is not among the known ones."""
    fact = f"{path} is {_shown(name)}, which is no choice" if is_value else f"{path} is no field"
    near = get_close_matches(name, known, n=1)
    prefix = "" if is_value else path.removesuffix(name)
    if near:
        return f"{fact}. Did you mean {prefix}{near[0]}?"
    if not is_value and (other := elsewhere(name, root)):
        return f"{fact}. Did you mean {other}?"
    return f"{fact}. Known {'choices' if is_value else 'there'}: {', '.join(known)}."


def path_of(location: Sequence[str | int], raw: Any) -> str:
    """The path that ``--set`` takes: pydantic's without the kinds of records, and without its mark for keys."""
    steps, node = list[str](), raw
    for step in location:
        if step == "[key]" or (isinstance(node, dict) and node.get("kind") == step):
            continue
        steps.append(str(step))
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
    return ".".join(steps)


def _shown(value: Any) -> str:
    """As it stands in the file, cut to what a line has room for."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
