"""One training run of an ablation, from wherever it stands."""

from pathlib import Path

from theworld_train.checkpoints import newest, replace_text
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.recipe import Recipe
from theworld_train.recipe_file import RECIPE, dump_recipe
from theworld_train.run import run_recipe


def train(recipe: Recipe, run: Path, report: Report) -> Path:
    """Start or go on with it, unless it is done; the last checkpoint.

    The folder's name says whose it is. A recipe there that is not to the letter this one names folders that were moved
    since, or what changes no result.

    Raises:
        UsageError: it was asked to stop.
    """
    steps = sum(stage.steps for stage in recipe.stages)
    last = newest(run)
    if last is None or last[0] < steps:
        if (run / RECIPE).is_file():
            replace_text(run / RECIPE, dump_recipe(recipe))
        outcome = run_recipe(recipe, run, resume="if begun", report=report)
        if outcome.step < steps:
            raise UsageError(f"stopped after step {outcome.step} of {steps} of {run}. Go on with the same command.")
        last = outcome.step, outcome.checkpoint
    return last[1]
