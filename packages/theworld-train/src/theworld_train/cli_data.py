"""``theworld data``: lists of URLs become pictures on this disk, before training and not during it."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from theworld_train import imports

app = typer.Typer(help="Get training data onto this disk.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Get training data onto this disk."""


@app.command()
def fetch(
    urls: Annotated[
        str,
        typer.Argument(
            help="A parquet, JSONL or CSV file, a folder of one kind of them, or the id of a data set of the hub, e.g. "
            "mlfoundations/datacomp_small.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the shards; one that is there is continued.", show_default=False)
    ],
    url_column: Annotated[str, typer.Option(help="Column of the URLs.")] = "url",
    text_column: Annotated[str, typer.Option(help="Column of the texts; '' if there is none.")] = "text",
    split: Annotated[str, typer.Option(help="Split of a data set of the hub.")] = "train",
    connections: Annotated[int, typer.Option(help="URLs that a process asks at a time.", min=1)] = 64,
    per_host: Annotated[
        int, typer.Option(help="URLs of one host that all processes ask at a time, one each at the least.", min=1)
    ] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds for one try of a URL, redirects and all.", min=0.1)] = 10.0,
    max_bytes: Annotated[int, typer.Option(help="Largest file to take, in bytes.", min=1)] = 20_000_000,
    max_pixels: Annotated[
        int, typer.Option(help="Largest picture to take, width times height.", min=1, max=178_956_970)
    ] = 50_000_000,
    retries: Annotated[int, typer.Option(help="Further tries where one failed for a reason that may pass.", min=0)] = 3,
    shard_size: Annotated[int, typer.Option(help="Rows of the list that become one shard.", min=1)] = 10_000,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before for a reason that may pass.")
    ] = False,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Also ask this machine and its own network; only for lists you wrote."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Download the pictures of a list of URLs into parquet shards, with a manifest that says what became of each URL.

    Stop it whenever you like; the same command goes on where it was. Dead links are counted, never replaced by others.
    What is kept is a picture, byte by byte as it was sent, with its text and all other columns of the list. Then, in
    Python: datasets.load_dataset("OUT"), and for the outcomes: datasets.load_dataset("OUT", "manifest").

    Example: theworld data fetch mlfoundations/datacomp_small --out datacomp/

    In 4 processes: torchrun --standalone --nproc-per-node 4 --no-python theworld data fetch urls.jsonl --out pictures/
    """
    with imports.kept():
        from theworld_train.data.address import is_public
        from theworld_train.data.download import Limits
        from theworld_train.data.fetch import fetch as job
        from theworld_train.errors import UsageError
        from theworld_train.jobs import Bars
        from theworld_train.processes import Rank

    rank = Rank.of_this_process()
    limits = Limits(
        connections=connections,
        per_host=max(1, per_host // rank.of),
        timeout=timeout,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        retries=retries,
    )
    with Bars(disable=rank.number > 0) as bars:
        outcomes = job(
            urls,
            out,
            limits=limits,
            report=bars.add("fetching" if rank.of == 1 else f"fetching, 1 of {rank.of} processes"),
            url_column=url_column,
            text_column=text_column,
            split=split,
            shard_size=shard_size,
            retry_failed=retry_failed,
            allow=(lambda address: True) if allow_private else is_public,
            rank=rank,
        )
    if rank.of > 1:  # one without a picture must not stop the others
        counts = ", ".join(f"{rows:,} {outcome}" for outcome, rows in outcomes.most_common())
        print(f"process {rank.number + 1} of {rank.of}: {outcomes.total():,} rows: {counts or 'none'}", flush=True)
        return
    _print_outcomes(outcomes)
    if not outcomes["ok"]:
        raise UsageError(f"none of {outcomes.total():,} rows gave a picture. The manifest in {out} says why.")


def _print_outcomes(outcomes: Counter[str]) -> None:
    """The kept ones first, then the others by their number."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("outcome")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    for outcome, rows in sorted(outcomes.items(), key=lambda item: (item[0] != "ok", -item[1], item[0])):
        table.add_row(outcome, f"{rows:,}", f"{rows / outcomes.total():.1%}")
    Console(markup=False, highlight=False, emoji=False).print(table)
