"""The arms of a plan: every combination of its grid, as the recipe that trains it."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from theworld_train.data.example import digest
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.plan import Plan, World
from theworld_train.evaluate.facts import checkpoint_facts, code_identity
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY
from theworld_train.recipe_file import load_recipe

_FIELDS = {
    "encoder": "model.encoder",
    "encoder_settings": "model.encoder_settings",
    "slots": "model.config.world_tokens_per_item",
    "fusion": "model.config.world_fusion",
    "placement": "model.config.world_placement",
}
"""What each axis of the grid sets, besides those that every arm has."""


@dataclass(frozen=True, kw_only=True)
class Bases:
    """What all arms start from, where the plan trains it: folders, and a digest of what they were made from."""

    vlm: Path
    world: Path | None
    identity: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One trained run: an arm with one of the seeds.

    Attributes:
        name: the arm's: what stands in the world's place, and the values of the axes that the plan varies.
        settings: those values, as text.
        recipe: what trains it; without one the base itself is asked.
        identity: a digest of all that decides what becomes of it.
    """

    name: str
    world: World
    settings: str
    seed: int
    recipe: Recipe
    trains: bool
    identity: str

    @property
    def folder(self) -> str:
        """Name of its folder, which stays when the plan grows: ``name`` may then have more in it."""
        return f"{self.world}-seed{self.seed}-{self.identity[:10]}"


def all_arms(plan: Plan, bases: Bases | None) -> list[Arm]:
    """The arms in the grid's order, an arm's seeds one after the other; ``off`` once, for no axis changes it.

    Raises:
        UsageError: an arm's recipe is none.
    """
    axes = {axis: values for axis in _FIELDS if (values := getattr(plan.grid, axis))}
    arms: dict[str, Arm] = {}
    for values in itertools.product(*axes.values()):
        for world, seed in itertools.product(plan.grid.world, plan.grid.seed):
            chosen = {} if world == "off" else dict(zip(axes, values, strict=True))
            settings = ", ".join(f"{axis} {_text(value)}" for axis, value in chosen.items() if len(axes[axis]) > 1)
            name = f"{world}, {settings}" if settings else world
            arms.setdefault(f"{name} {seed}", _arm(plan, bases, world, chosen, settings, name, seed))
    return list(arms.values())


def changes(values: Mapping[str, Any]) -> list[str]:
    """Values by path, as ``load_recipe`` takes them."""
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]  # JSON is YAML


def identity_of(recipe: Recipe, base: str | None) -> str:
    """A digest of a recipe, of the code, and of checkpoints by what they hold, wherever they lie.

    Data sets are known by their names and options, not by what their files hold.

    Args:
        base: what the VLM was made from, and the world model with it, where the plan trains them.
    """
    plain = recipe.model_dump(mode="json", exclude={"name", "log"})
    places = ("init_from",) if base is not None else ("vlm", "world", "init_from")
    plain["model"] |= {"vlm": base, "world": base} if base is not None else {}
    plain["model"] |= {place: _held(plain["model"][place]) for place in places}
    for stage in plain["stages"]:
        del stage["data"]["cache"], stage["data"]["remember"]
    return digest(plain, code_identity())


def _held(source: str | None) -> Any:
    """Who a checkpoint is; a toy, which the run makes, by its name."""
    return source if source is None or source == TINY else _facts(source)


_facts = cache(checkpoint_facts)
"""Files may be large, and the arms share them."""


def _arm(
    plan: Plan,
    bases: Bases | None,
    world: World,
    chosen: Mapping[str, Any],
    settings: str,
    name: str,
    seed: int,
) -> Arm:
    values = {**plan.set, **{_FIELDS[axis]: value for axis, value in chosen.items()}, "name": plan.name, "seed": seed}
    if bases is not None:
        values |= {"model.vlm": str(bases.vlm)} | ({} if bases.world is None else {"model.world": str(bases.world)})
    recipe = load_recipe(plan.recipe, changes(values))
    if not recipe.model.has_world:
        raise UsageError("the plan's recipe has no world branch (world_fusion is none). Leave that to the arm off.")
    trains = True
    if world == "off":
        recipe, trains = _without_world(recipe)
    elif world != "on":
        model = recipe.model.model_copy(update={"encoder": f"{world}:{recipe.model.encoder}"})
        recipe = recipe.model_copy(update={"model": model})
    identity = identity_of(recipe, None if bases is None else bases.identity)
    return Arm(name=name, world=world, settings=settings, seed=seed, recipe=recipe, trains=trains, identity=identity)


def _without_world(recipe: Recipe) -> tuple[Recipe, bool]:
    """The same without the world branch, and whether anything is left to train."""
    plain = recipe.model_dump(mode="json")
    config = {name: value for name, value in plain["model"]["config"].items() if name != "num_world_steps"}
    plain["model"]["config"] = {**config, "world_fusion": "none"}
    for stage in plain["stages"]:
        for part in ("world_projector", "world_encoder"):
            stage["parts"].pop(part, None)
    bare = [stage["name"] for stage in plain["stages"] if not stage["parts"]]
    if bare and len(bare) < len(plain["stages"]):
        raise UsageError(
            f"stage {bare[0]} trains the world branch alone, so off would skip it and see other data than the other "
            "arms. Give every stage a part that off has too, or none."
        )
    if bare:
        return recipe, False
    return Recipe.model_validate(plain), True


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
