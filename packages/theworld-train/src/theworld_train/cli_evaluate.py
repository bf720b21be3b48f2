"""``theworld evaluate``: a model asked a benchmark's questions, with a record of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from theworld_train import imports
from theworld_train.errors import UsageError

if TYPE_CHECKING:
    from theworld_train.evaluate.summary import FamilyScore, Summary

Dtype = Literal["float32", "bfloat16", "float16"]
Method = Literal["likelihood", "generate"]


def evaluate(
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK[:KEY=VALUE,...]",
            help="What to ask, with its options: micro-world, blink, vsr:images=DIR, spatial-rgpt. An unknown one "
            "lists those that there are.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the records, new or empty.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="A trained checkpoint or adapter: a run's or its own folder, or hub id.")
    ] = None,
    vlm: Annotated[str | None, typer.Option(help="Instead of --model: a base VLM, e.g. google/gemma-3-4b-it.")] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help="on: with world tokens; off: without, which is the base VLM; zeros, noise, other-item, "
            "shuffled-slots, image-repeated: with world tokens that lack one thing. Default: on; with --vlm, off."
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="Compare the likelihoods of the choices (never unreadable), or read a generated answer."),
    ] = "likelihood",
    limit: Annotated[
        int | None, typer.Option(help="Ask so many questions only, from all over the task: for a first look.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions asked together.", min=1)] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a generated answer at most.", min=1)] = 64,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of a clip that a task makes; the checkpoint says.", min=1)
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number type of the weights; default: bfloat16, and float32 on a CPU.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws which item is the other one in other-item.", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Ask a model a benchmark's questions, and score its answers by fixed rules.

    --out gets records.jsonl (a line for each question: what the model saw, said and scored), manifest.json (who was
    asked what, by which code) and summary.json. Stop it whenever you like: with --resume it goes on, and the records
    are the same byte for byte. A question that cannot be asked is an error, not a wrong answer; then the exit code is
    not 0.

    Example: theworld evaluate --model demo-report/model --task micro-world --out results/on

    The same without world tokens: theworld evaluate --model demo-report/model --task micro-world --arm off --out
    results/off

    Compare the two: theworld compare results/on results/off

    On 8 GPUs: torchrun --standalone --nproc-per-node 8 --no-python theworld evaluate ...
    """
    if (model is None) == (vlm is None):
        raise UsageError("give either --model (a trained checkpoint) or --vlm (a base VLM).")
    with imports.kept():
        from theworld_train.evaluate.arms import split_arm
        from theworld_train.evaluate.tasks import open_task, task_settings

    world, control = split_arm(arm or ("off" if model is None else "on"))
    settings = task_settings(task)
    with imports.kept():
        from theworld_train.evaluate.runner import run_task
        from theworld_train.evaluate.subject import load_subject
        from theworld_train.processes import Rank, part

    rank = Rank.of_this_process()
    subject = load_subject(model, vlm, dtype=dtype, device=rank.device())
    frames = num_frames or subject.processor.world_num_frames
    summary = run_task(
        subject.model,
        subject.processor,
        open_task(settings, num_frames=frames),
        out,
        method=method,
        world=world,
        control=control,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        limit=limit,
        resume=resume,
        facts=subject.facts,
        where={"model": subject.source, "options": settings.model_dump(mode="json"), "num_frames": frames},
    )
    part()
    if rank.number:
        return
    _print(summary, out)
    if summary.total.errors:
        total = summary.total.items + summary.total.errors
        raise UsageError(
            f"{summary.total.errors} of {total} questions could not be asked, and are in no score; the first: "
            f"{summary.first_error} The others: {out / 'records.jsonl'}"
        )


def _print(summary: "Summary", out: Path) -> None:
    from theworld_train.cli_table import print_table

    print(f"{summary.task}, arm {summary.arm}, by {summary.method}\n")
    header = ["family", "score", "95 % interval", "n", "groups", "chance", "unreadable", "errors"]
    print_table(header, [_row(score) for score in summary.families], numbers=7)
    print(f"\nrecords: {out / 'records.jsonl'}")


def _row(score: "FamilyScore") -> list[str]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    interval = "-" if score.low is None else f"{shown(score.low)} to {shown(score.high)}"
    counts = [str(score.items), str(score.groups), shown(score.chance), str(score.unparsable), str(score.errors)]
    return [score.family, shown(score.score), interval, *counts]
