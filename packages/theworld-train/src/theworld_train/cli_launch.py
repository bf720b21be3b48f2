"""``theworld launch``: a recipe's training on several processes; or only what would be run and written."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from theworld_train.errors import UsageError


def launch(
    recipe: Annotated[
        str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False)
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: further arguments of theworld train.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, which all machines see; default: runs/ and its name.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="ddp: the whole model in every process; fsdp2: dealt out over the processes; fsdp2_offload: and "
            "resting in the machine's memory."
        ),
    ] = "ddp",
    nodes: Annotated[int, typer.Option(help="Machines.", min=1)] = 1,
    processes_per_node: Annotated[
        int | None, typer.Option(help="Processes on each; default: one for each accelerator of this one.", min=1)
    ] = None,
    machine_rank: Annotated[
        int | None,
        typer.Option(help="Which of several machines this is, from 0.", envvar=["NODE_RANK", "SLURM_NODEID"], min=0),
    ] = None,
    main_address: Annotated[
        str | None, typer.Option(help="With several machines: name or address of the first.", envvar="MASTER_ADDR")
    ] = None,
    main_port: Annotated[
        int | None, typer.Option(help="A port that is free there; alone: any.", envvar="MASTER_PORT", min=1, max=65535)
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option(
            help="How often processes of which one failed, or whose machine went and came back, are started again from "
            "the newest checkpoint.",
            min=0,
        ),
    ] = 0,
    slurm: Annotated[bool, typer.Option("--slurm", help="Write a job script into --out and submit it.")] = False,
    time: Annotated[
        str, typer.Option(help="With --slurm: how long a job may last; it goes on in the next one.")
    ] = "4:00:00",
    partition: Annotated[str | None, typer.Option(help="With --slurm: where; default: the site's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command and every file that would be written; do nothing.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Train a recipe on several processes, by accelerate: one machine, several, or SLURM jobs one after the other.

    SIGTERM and SIGUSR1 make it save a checkpoint and end; go on with -- --resume.

    Example: theworld launch spatial-sft --out runs/spatial --strategy fsdp2

    Example: theworld launch spatial-sft --out runs/spatial -- --set optim.lr=1e-4 --resume

    Example: theworld launch datacomp-production --out runs/datacomp --nodes 4 --processes-per-node 8 --slurm --dry-run
    """
    from theworld_train.launch.command import Launch, accelerate_command
    from theworld_train.recipe_file import RECIPE, load_recipe, shipped

    loaded = load_recipe(recipe)
    job = Launch(
        recipe=recipe if recipe in shipped() else str(Path(recipe).resolve()),
        out=(out or Path("runs") / loaded.name).resolve(),
        strategy=strategy,  # pyright: ignore[reportArgumentType]  # it checks
        nodes=nodes,
        processes=processes_per_node or _accelerators(insist=slurm),
        restarts=max_restarts,
        arguments=tuple(arguments or ()),
    )
    if slurm:
        from theworld_train.launch.slurm import SCRIPT, job_script

        script, text = job.out / SCRIPT, job_script(job, loaded, time=time, partition=partition)
        command = ["sbatch", str(script)]
        if dry_run:
            print(f"{shlex.join(command)}\n\n# {script}\n{text}", end="")
            return
        job.out.mkdir(parents=True, exist_ok=True)
        script.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError as error:
            raise UsageError(f"{script} is written, but there is no sbatch here. Submit it where SLURM is.") from error
        raise typer.Exit(code)
    if partition is not None:
        raise UsageError(f"--partition is {partition}, without --slurm. Add --slurm, or leave it out.")
    command = accelerate_command(job, rank=machine_rank, address=main_address, port=main_port)
    if dry_run:
        print(shlex.join(command))
        return
    from theworld_train.launch.supervise import supervise

    code = supervise(command)
    if code and (job.out / RECIPE).is_file():
        print(
            f"theworld launch: the processes ended with exit code {code}; what they said is above. To go on from the "
            "newest checkpoint, give the same command with -- --resume.",
            file=sys.stderr,
        )
    raise typer.Exit(code)


def _accelerators(*, insist: bool) -> int:
    import torch

    found = torch.accelerator.device_count()
    if insist and not found:
        raise UsageError("this machine has no accelerators to tell how many the nodes have. Give --processes-per-node.")
    return max(1, found)
