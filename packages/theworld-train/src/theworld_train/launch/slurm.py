"""A job script for SLURM that goes on in the next job where its time was up."""

import re
import shlex
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from theworld_train.errors import UsageError
from theworld_train.launch.command import Launch, launch_command
from theworld_train.recipe import Recipe

SCRIPT = "job.sbatch"
"""In the run's folder."""

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
_PARTITION = re.compile(r"[\w.+-]+(,[\w.+-]+)*")


def job_script(launch: Launch, recipe: Recipe, *, time: str, partition: str | None) -> str:
    """Text of the script.

    Args:
        recipe: as read; its name is the job's, and its data workers need cores.
        time: as SLURM writes it, e.g. ``4:00:00`` or ``1-12``; the job takes a new turn when it is up.

    Raises:
        UsageError: time or partition are none, or the run's folder has a name that a script cannot hold.
    """
    if not _TIME.fullmatch(time):
        raise UsageError(f"--time is {time!r}. Give hours:minutes:seconds, e.g. 4:00:00, or days-hours.")
    if partition is not None and not _PARTITION.fullmatch(partition):
        raise UsageError(f"--partition is {partition!r}. Give names as sinfo shows them, separated by commas.")
    if not str(launch.out).isprintable():
        raise UsageError(f"--out is {str(launch.out)!r}, which has a line break or the like. Give it another name.")
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = environment.from_string((files("theworld_train") / "launch" / "job.sbatch.jinja").read_text("utf-8"))
    workers = max(stage.data.workers for stage in recipe.stages)
    return template.render(
        name=recipe.name,
        nodes=launch.nodes,
        processes=launch.processes,
        cpus=launch.processes * (1 + workers),
        time=time,
        partition=partition,
        log=shlex.quote(f"{launch.out}/slurm-%j.log"),
        recipe_of_run=shlex.quote(f"{launch.out}/recipe.yaml"),
        command=shlex.join(launch_command(launch)),
    )
