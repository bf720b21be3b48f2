"""``theworld sensitivity``: how much a model's answers depend on its world input."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from theworld_train import imports
from theworld_train.errors import UsageError
from theworld_train.folders import make_folder


def sensitivity(
    model: Annotated[
        str,
        typer.Option(help="A trained checkpoint or adapter: a run's or its own folder, or hub id.", show_default=False),
    ],
    question: Annotated[str | None, typer.Argument(help="With --image or --video: what to ask, in quotes.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture to ask about; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A clip to ask about; may be repeated.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="With a question: the answer to measure; the model's own by default.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help='Instead of a question: JSONL or parquet, {"messages": [a chat]} on each line.')
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[:KEY=VALUE,...]", help="Instead of a question: a benchmark, as of theworld evaluate."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Conversations of --data, or questions of --task, at most.", min=1)] = 64,
    own_answers: Annotated[
        bool, typer.Option("--own-answers", help="Measure the model's own answers, even where one is given.")
    ] = False,
    maps: Annotated[int, typer.Option(help="For how many to draw what each region is worth.", min=0)] = 8,
    cells: Annotated[int, typer.Option(help="Regions along each side of a map.", min=1)] = 7,
    fill: Annotated[
        Literal["mean", "zeros"], typer.Option(help="What takes a region's place: its frame's mean, or zeros.")
    ] = "mean",
    seed: Annotated[int, typer.Option(help="Of noise, swaps and resamplings.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("sensitivity-report"),
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """See how much a model's answers depend on its world input, before spending on training or trusting a result.

    The likelihood of each answer is measured again with the world tokens removed, shuffled in place, taken from another
    clip, replaced by noise, and with one region after the other taken away; beside it, how much attention the answers
    pay to world, image and text. Leaves sensitivity.html, .md and .json in --out, and pictures.

    Example: theworld sensitivity --model demo-report/model --task micro-world --out sensitivity-report

    Example: theworld sensitivity --model demo-report/model --video clip.mp4 "Which way is it moving?"
    """
    ways = {"--data": data, "--task": task, "a question": question}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        named = " and ".join(given) or "none of them"
        raise UsageError(f"give one of a question, --data and --task; there is {named}.")
    if question is None and (image or video or answer):
        raise UsageError("--image, --video and --answer go with a question. Write it, in quotes.")
    if question is not None and not question.strip():
        raise UsageError("the question is empty. Write what you want to know, in quotes.")
    make_folder(out)
    with imports.kept():
        from theworld_train.answer import load_media
        from theworld_train.evaluate.sensitivity import SensitivitySettings, measure, write_report
        from theworld_train.evaluate.sensitivity.examples import of_file, of_media, of_task
        from theworld_train.evaluate.sensitivity.report import notes, table
        from theworld_train.evaluate.sensitivity.result import verdict
        from theworld_train.evaluate.tasks import open_task, task_settings
        from theworld_train.jobs import Bars
        from theworld_train.trained import open_trained

    settings_of_task = None if task is None else task_settings(task)
    processor, load = open_trained(model)
    frames = processor.world_num_frames
    if data is not None:
        examples = of_file(data, limit)
    elif settings_of_task is not None:
        examples = of_task(open_task(settings_of_task, num_frames=frames), limit)
    else:
        examples = of_media(load_media(image or [], video or [], frames), str(question), answer)
    settings = SensitivitySettings(own_answers=own_answers, maps=maps, cells=cells, fill=fill, seed=seed)
    with Bars() as bars:
        result = measure(load(), processor, examples, settings, name=model, report=bars.add("measuring"))
    write_report(result, out)
    print(verdict(result.effects(), own=own_answers) + "\n")
    for name, mean, size, number in table(result):
        print(f"{name:<12} {mean:<28} either way {size}   n {number}")
    print("\n" + "\n".join(notes(result)) + f"\n\nreport: {out / 'sensitivity.html'}")
