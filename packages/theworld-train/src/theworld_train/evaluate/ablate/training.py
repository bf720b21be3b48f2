"""One training run of an ablation, from wherever it stands."""

import shutil
from pathlib import Path

from theworld_train.checkpoints import newest
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.recipe import Recipe
from theworld_train.recipe_file import dump_recipe
from theworld_train.run import run_recipe
from theworld_train.run_folder import RECIPE


def train(recipe: Recipe, run: Path, report: Report) -> Path:
    """Start or go on with it, unless it is done; the last checkpoint.

    A run of another recipe in the folder, which has this one's name, was begun where folders had other names: it goes.

    Raises:
        UsageError: it was asked to stop.
    """
    steps = sum(stage.steps for stage in recipe.stages)
    file = run / RECIPE
    resume = file.is_file() and file.read_text(encoding="utf-8") == dump_recipe(recipe)
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    last = newest(run)
    if last is None or last[0] < steps:
        outcome = run_recipe(recipe, run, resume=resume, report=report)
        if outcome.step < steps:
            raise UsageError(f"stopped after step {outcome.step} of {steps} of {run}. Go on with the same command.")
        last = outcome.step, outcome.checkpoint
    return last[1]
