"""``theworld train``: a recipe, run; or only printed, in full."""

from pathlib import Path
from typing import Annotated

import typer

from theworld_train import imports
from theworld_train.errors import UsageError


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a shipped recipe, or path of a YAML file; without one, the shipped are listed."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Another value for a field, e.g. stages.0.steps=10; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty; default: runs/ and the recipe's name.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out where its last checkpoint is.")
    ] = False,
    resume_if_begun: Annotated[
        bool, typer.Option("--resume-if-begun", help="The same if --out holds a run; else start it.")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the recipe with every field, check it, and train nothing.")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Train the world projector, and what else a recipe names, on a recipe's data.

    A recipe is one YAML file: the model, its trainable parts stage by stage, the data, the schedule. Fields that are
    unknown, or that would change nothing, are errors.

    Example: theworld train smoke

    Example: theworld train spatial-sft --set optim.lr=5e-5 --set stages.0.steps=200 --out runs/spatial

    To start a recipe of your own: theworld train align-projector --print > mine.yaml
    """
    from theworld_train.recipe_file import dump_recipe, load_recipe, shipped

    if recipe is None and (changes or out or resume or resume_if_begun or print_only):
        raise UsageError(f"there is no recipe to train. Give one: {', '.join(shipped())}, or the path of a YAML file.")
    if recipe is None or list_only:
        _list(shipped())
        return
    loaded = load_recipe(recipe, changes or ())
    if print_only:
        print(dump_recipe(loaded), end="")
        return
    with imports.kept():
        from theworld_train.processes import Rank, part
        from theworld_train.run import run_recipe

    out = out or Path("runs") / loaded.name
    outcome = run_recipe(loaded, out, resume=resume or ("if begun" if resume_if_begun else False))
    part()
    if Rank.of_this_process().number:
        return
    if outcome.step < outcome.steps:
        print(f"stopped after step {outcome.step} of {outcome.steps}, as asked. Go on: the same command with --resume")
    else:
        print(f"trained: {outcome.checkpoint}    figures: {out / 'loss.png'}, {out / 'tensorboard'}")
        print(f'ask it: theworld answer --model {outcome.checkpoint} --image photo.jpg "What is it?"')


def _list(recipes: dict[str, str]) -> None:
    width = max(map(len, recipes))
    for name, purpose in recipes.items():
        print(f"{name.ljust(width)}  {purpose}")
    print("\nSee all of one: theworld train NAME --print. Train it: theworld train NAME --out FOLDER")
