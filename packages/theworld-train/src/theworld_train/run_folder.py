"""The folder of a run: whose it is, and what it starts with."""

import difflib
import shutil
from pathlib import Path
from typing import Literal

from theworld_train.checkpoints import check_content, newest, replace_text
from theworld_train.errors import UsageError
from theworld_train.folders import unwritable
from theworld_train.pair import make_tiny_pair
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY
from theworld_train.recipe_file import RECIPE, dump_recipe
from theworld_train.trainer import check_processes

PARTS, SAMPLES = "parts.json", "samples.jsonl"


Resume = bool | Literal["if begun"]


def prepare(recipe: Recipe, out: Path, *, resume: Resume, processes: int = 1, sharded: bool = False) -> None:
    """Make the folder of a new run, or see that the run to be resumed is the one in it.

    Args:
        resume: ``if begun`` is true where the folder holds a run, and false where it does not.
        processes, sharded: how many take part, and whether weights are dealt out over them.

    Raises:
        UsageError: a run is there and is not to be resumed, or the other way round, or it has another recipe or other
            processes.
    """
    text, file = dump_recipe(recipe), out / RECIPE
    going_on = file.is_file() if resume == "if begun" else resume
    if going_on:
        if not file.is_file():
            raise UsageError(f"{out} holds no run to resume: it has no {RECIPE}. Leave --resume out to start one.")
        if (before := file.read_text(encoding="utf-8")) != text:
            lines = [line for line in difflib.ndiff(before.splitlines(), text.splitlines()) if line[0] in "+-"]
            raise UsageError(
                f"{out} holds a run of another recipe: {'; '.join(' '.join(line.split()) for line in lines[:2])}. "
                f"Resume it with its own, {file}, or start a new run in another folder, with model.init_from."
            )
        if last := newest(out):
            check_content(last[1])
            check_processes(last[1], processes, sharded=sharded)
    elif any(out.glob("checkpoint-*")):  # one that failed before its first has nothing to lose
        raise UsageError(
            f"{out} holds a run already. Go on with it (--resume), or start a new one in another folder (--out)."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not going_on:
            shutil.rmtree(out / TINY, ignore_errors=True)
        if recipe.model.vlm == TINY:
            make_tiny_pair(out, recipe.seed)
        if not going_on:
            replace_text(file, text)
    except OSError as error:
        raise unwritable(out, error) from error
