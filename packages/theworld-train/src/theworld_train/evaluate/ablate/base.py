"""The VLM that all arms of a plan start from: a recipe's outcome, written as the checkpoint of a plain Gemma 3."""

import shutil
from pathlib import Path

from transformers import Gemma3ForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from theworld_fusion import fill_adapter
from theworld_fusion.assemble import load_vlm
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Bases, changes, identity_of
from theworld_train.evaluate.ablate.plan import RecipeSettings
from theworld_train.evaluate.ablate.training import train
from theworld_train.jobs import Report
from theworld_train.pair import make_pair
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY
from theworld_train.recipe_file import load_recipe

_RUN, _VLM = "run", "vlm"


def base_recipe(settings: RecipeSettings) -> Recipe:
    """Raises:
    UsageError: it is no recipe, or has a world branch.
    """
    recipe = load_recipe(settings.recipe, changes(settings.set))
    if recipe.model.has_world:
        raise UsageError("the base's recipe has a world branch. Give model.config.world_fusion: none in base.set.")
    return recipe


def bases_of(recipe: Recipe, out: Path) -> Bases:
    """Where the base of a recipe is, or will be."""
    identity = identity_of(recipe, None)
    folder = out / f"base-{identity[:10]}"
    tiny = recipe.model.vlm == TINY
    return Bases(vlm=folder / _VLM, world=folder / _RUN / TINY / "world" if tiny else None, identity=identity)


def make_base(report: Report, recipe: Recipe, bases: Bases) -> None:
    """Train it and write it, unless that is done."""
    if bases.vlm.is_dir():
        return
    disable_progress_bar()
    run = bases.vlm.parent / _RUN
    checkpoint = train(recipe, run, report)
    model, _ = make_pair(recipe, run)
    fill_adapter(model, checkpoint)
    source = str(run / TINY / "vlm") if recipe.model.vlm == TINY else recipe.model.vlm
    _, processor = load_vlm(source, recipe.model.vlm_revision)
    plain = Gemma3ForConditionalGeneration.from_pretrained(source, revision=recipe.model.vlm_revision or "main")
    plain.load_state_dict(model.state_dict())  # without a world branch, ours has the very same weights
    unfinished = bases.vlm.with_name(".vlm")
    shutil.rmtree(unfinished, ignore_errors=True)
    plain.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    unfinished.rename(bases.vlm)
