"""Names of a recipe's fields, from its types: for errors that know the nearest one, and for tests that go through all.

A name is a path as in ``--set``, with ``*`` for places in a list and keys of a mapping; of several kinds of record at
one place, the kind follows: ``stages.*.data.sources.*.chat.path``.
"""

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

from theworld_train.recipe import Recipe

Tree: TypeAlias = dict[str, "Tree | None"]
"""Fields by name; a leaf has none below it."""


def field_tree(annotation: Any = Recipe) -> Tree | None:
    """The fields below a type, ``None`` for a leaf's."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return field_tree(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field_tree(field.annotation) for name, field in annotation.model_fields.items()}
    if origin in (tuple, dict):
        below = field_tree(arguments[0 if origin is tuple else 1])
        return None if below is None else {"*": below}
    if origin in (Union, UnionType):
        records = [one for one in arguments if isinstance(one, type) and issubclass(one, BaseModel)]
        if len(records) == 1:
            return field_tree(records[0])
        return {get_args(one.model_fields["kind"].annotation)[0]: field_tree(one) for one in records} or None
    return None


def leaves(tree: Tree | None = None, path: str = "") -> Iterator[str]:
    """Full names of all fields that hold a value."""
    for name, below in (tree or field_tree() or {}).items():
        if below is None:
            yield path + name
        else:
            yield from leaves(below, f"{path}{name}.")


def known_at(location: Sequence[str | int], root: Any = Recipe) -> list[str]:
    """The fields of ``root`` at ``location``, which is a path in pydantic's terms: with kinds."""
    below = field_tree(root) or {}
    for step in location:
        below = below.get(str(step), below.get("*")) or {}
    return list(below)


def elsewhere(name: str, root: Any = Recipe) -> str | None:
    """The first field of ``root`` of that name that stands at one place only."""
    return next((leaf for leaf in leaves(field_tree(root)) if leaf.split(".")[-1] == name and "*" not in leaf), None)
