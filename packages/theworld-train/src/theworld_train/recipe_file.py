"""Recipes as files: those that the package ships, one's own, single values changed, and written out in full."""

from collections.abc import Sequence
from pathlib import Path

from theworld_train import settings_file
from theworld_train.errors import UsageError
from theworld_train.recipe import ModelSettings, Recipe
from theworld_train.recipe_yaml import dump_yaml

RECIPE = "recipe.yaml"
"""In a run's folder, and in its checkpoints."""


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a YAML file.

    Args:
        overrides: ``path=value`` each, e.g. ``optim.lr=2e-5`` or ``stages.0.parts.language_model.lora.rank=8``, with
            values in YAML; they are put in before the recipe is checked.

    Raises:
        UsageError: there is no such recipe, it is no YAML, or a field is unknown, wrong, or would change nothing.
    """
    recipe = settings_file.load_settings(Recipe, "recipe", name_or_path, overrides)
    _check_model(recipe.model)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; ``load_recipe`` reads an equal one from it."""
    return dump_yaml(recipe.model_dump())


def shipped() -> dict[str, str]:
    """The recipes of this package: name, and its first comment, which says what it is for."""
    return settings_file.shipped("recipe")


def _check_model(model: ModelSettings) -> None:
    """What only the disk and the model's own code can say; that is not imported where nothing is asked of it."""
    for source, field in ((model.vlm, "vlm_revision"), (model.world, "world_revision")):
        if getattr(model, field) is not None and source is not None and Path(source).is_dir():
            raise UsageError(
                f"model.{field} is {getattr(model, field)!r}, but {source} is a folder here, which has no revisions. "
                "Leave it out."
            )
    if model.config or model.encoder != ModelSettings.model_fields["encoder"].default:
        from theworld_train.recipe_model import check_model

        check_model(model)
