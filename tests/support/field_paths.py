"""Whether a path on a page leads to a field of a recipe or a plan."""

from typing import Any

from theworld_train.recipe import Recipe
from theworld_train.recipe_fields import field_tree

FREE = ("config", "encoder_settings")
"""Fields that hold mappings of any keys."""


def is_field(path: str, kind: Any = Recipe) -> bool:
    """Whether a path, as ``--set`` takes it, leads to a field or a section, through any of several kinds of record."""
    reached: list[Any] = [field_tree(kind)]
    steps = path.split(".")
    for place, step in enumerate(steps):
        if place and steps[place - 1] in FREE:
            return True
        below = []
        for tree in filter(None, reached):
            kinds = [] if step in tree or "*" in tree else [one for one in tree.values() if one and step in one]
            below += [tree.get(step, tree.get("*"))] if step in tree or "*" in tree else [one[step] for one in kinds]
        if not below:
            return False
        reached = below
    return True
