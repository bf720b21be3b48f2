"""``theworld ablate``: a plan from its question to the verdict; or only printed, in full."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from theworld_train import imports
from theworld_train.errors import UsageError


def ablate(
    plan: Annotated[
        str | None,
        typer.Argument(help="Name of a shipped plan, or path of a YAML file; without one, the shipped are listed."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Another value for a field, e.g. level=0.05; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of runs and report; what is done there is not done again. Default: runs/ablate/NAME."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(help="Runs that are worked on at a time.", min=1)] = 2,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the plan with every field, check it and its arms, and run nothing.")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the shipped plans.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Does the world help? Train every arm of a plan from one base, ask all the same questions, and compare.

    A plan is one YAML file: a recipe, what varies (the world on, off, or replaced by a control, and settings of the
    model), the tasks, the seeds, and what counts as found. It ends in a table with intervals, paired tests, a verdict
    in words for each arm, and report.html. Stopped at any moment and given again, the same command goes on.

    Example: theworld ablate micro-world

    To start a plan of your own: theworld ablate micro-world --print > mine.yaml
    """
    from theworld_train.evaluate.ablate.plan_file import dump_plan, load_plan, shipped_plans

    if plan is None and (changes or out or print_only):
        raise UsageError(f"there is no plan. Give one: {', '.join(shipped_plans())}, or the path of a YAML file.")
    if plan is None or list_only:
        width = max(map(len, shipped_plans()))
        for name, purpose in shipped_plans().items():
            print(f"{name.ljust(width)}  {purpose}")
        print("\nSee all of one: theworld ablate NAME --print. Run it: theworld ablate NAME")
        return
    loaded = load_plan(plan, changes or ())
    folder = out or Path("runs") / "ablate" / loaded.name
    with imports.kept():
        from theworld_train.evaluate.ablate.run import arms_of, run_ablation

    if print_only:
        arms_of(loaded, folder)
        print(dump_plan(loaded), end="")
        return
    outcome = run_ablation(loaded, folder, processes=processes, command=" ".join(["theworld", *sys.argv[1:]]))
    if unusable := {found.task: found.unusable for _, found, _ in outcome.tasks if found.unusable}:
        named = ", ".join(f"{number} of {task}" for task, number in unusable.items())
        raise UsageError(f"questions that could not be asked are in no figure: {named}. See the runs' records.jsonl.")
