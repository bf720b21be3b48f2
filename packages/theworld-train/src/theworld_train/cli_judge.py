"""``theworld judge``: a language model reads an evaluation's answers a second time."""

from pathlib import Path
from typing import Annotated

import typer

from theworld_train import imports
from theworld_train.errors import UsageError
from theworld_train.folders import kept_alone


def judge(
    folder: Annotated[Path, typer.Argument(help="Folder of theworld evaluate --method generate.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            help="The judge: folder or hub id of a language model, which runs here; with --endpoint, its name there.",
            show_default=False,
        ),
    ],
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask a server that speaks OpenAI's chat completions instead, e.g. http://localhost:8000/v1 or "
            "https://api.openai.com/v1.",
        ),
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the key of --endpoint, where it needs one.")
    ] = "OPENAI_API_KEY",
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[:KEY=VALUE,...]",
            help="The task that was evaluated, where its data lie elsewhere now; default: as it was.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the readings go. Default: a folder of the judge's name in FOLDER.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Check the rules that score generated answers: have a language model read the answers too, and compare.

    The rules' scores stay as they are. Of each answer the judge says whether it is right, or which length or direction
    it gives; then a table shows how often both come to the same, and Cohen's kappa. --out gets judged.jsonl (each
    answer with both readings), agreement.md, and the judge's replies: stopped at any moment and given again, the
    command asks only what was not answered. An answer without a usable reply is an error; then the exit code is not 0.

    Example: theworld judge results/on --model google/gemma-3-4b-it

    Example: theworld judge results/on --model gpt-4.1-mini --endpoint https://api.openai.com/v1
    """
    with imports.kept():
        from theworld_train.cli_table import print_table
        from theworld_train.evaluate.agreement import judge_records
        from theworld_train.evaluate.judge import Judge
        from theworld_train.evaluate.judging import JUDGED, REPORT, begin, open_evaluation, table, write_judged
        from theworld_train.evaluate.readers import Endpoint, LocalModel
        from theworld_train.evaluate.tasks import task_settings
        from theworld_train.jobs import Bars
        from theworld_train.processes import Rank

    asked, records = open_evaluation(folder, None if task is None else task_settings(task))
    out = out or folder / f"judge-{Path(model).name}"
    with kept_alone(out), Bars() as bars:
        if endpoint is None:
            reader = LocalModel(model, device=Rank.of_this_process().device())
        else:
            reader = Endpoint(model=model, base_url=endpoint, key_variable=key_variable)
        begin(out, reader.identity, folder)
        judge = Judge(reader=reader, cache=out / "replies")
        judged = judge_records(asked, records, judge, workers=8 if endpoint else 1, report=bars.add("judging"))
        write_judged(judged, model, f"{asked.name}, {folder.name}", out)
    print(f"{asked.name}: the rules and {model}\n")
    header, rows = table(judged)
    print_table(header, rows, numbers=len(header) - 1)
    print(f"\nreadings: {out / JUDGED}\nreport: {out / REPORT}")
    if errors := [one for one in judged if one.error is not None]:
        remedy = (
            "Give the command again to ask for them alone" if endpoint else "Give a judge that follows instructions"
        )
        raise UsageError(
            f"{len(errors)} of {len(judged)} answers could not be judged, and are in no figure; the first: "
            f"{errors[0].key}: {errors[0].error}. {remedy}."
        )
