"""``theworld micro-world``: the benchmark of made clips, as files, as a picture, and checked for shortcuts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theworld_train import imports

if TYPE_CHECKING:
    from theworld_train.microworld.baselines import Baseline

app = typer.Typer(
    help="Clips of simulated objects with questions about their motion.", no_args_is_help=True, rich_markup_mode=None
)

Families = Annotated[
    list[str] | None,
    typer.Option(
        "--family",
        help="A family, e.g. direction/free, or direction for that question about any scene; may be repeated. All "
        "families if it is not given.",
    ),
]
Level = Annotated[str, typer.Option(help="easy, medium or hard.")]
Seed = Annotated[int, typer.Option(help="Another one gives other clips.", min=0)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@app.callback()
def _commands() -> None:
    """Clips of simulated objects with questions about their motion."""


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to make; it appears when everything is in it.", show_default=False)],
    split: Annotated[str, typer.Option(help="train, val, test or test-extrapolation.", show_default=False)],
    groups: Annotated[int, typer.Option(help="Matched groups of clips for each family.", min=1)] = 50,
    family: Families = None,
    level: Level = "easy",
    seed: Seed = 0,
    frames: Annotated[int, typer.Option(help="Frames of each clip.", min=5)] = 9,
    size: Annotated[int, typer.Option(help="Side of a frame in pixels.", min=32)] = 96,
    debug: Debug = False,
) -> None:
    """Write clips as lossless videos, with a parquet table of questions, answers and true states, and a data card.

    A recipe's source {kind: chat, path: OUT} trains on it, and datasets.load_dataset("OUT") reads it. The same
    arguments give the same files; a folder that already holds them is left as it is.

    Example: theworld micro-world export --out micro-world-val --split val --groups 20
    """
    with imports.kept():
        from theworld_train.jobs import Bars
        from theworld_train.microworld.export import Wanted
        from theworld_train.microworld.export import export as job

    wanted = Wanted(
        split=split, groups=groups, families=tuple(family or ()), level=level, seed=seed, num_frames=frames, size=size
    )
    with Bars() as bars:
        written = job(wanted, out, report=bars.add("groups"))
    print(f"{out} {'holds' if written else 'already held'} {split}, fingerprint {wanted.fingerprint}")


@app.command()
def check(
    family: Families = None,
    level: Level = "easy",
    seed: Seed = 0,
    train_groups: Annotated[int, typer.Option(help="Groups of each family to learn from, of split train.")] = 60,
    val_groups: Annotated[int, typer.Option(help="Groups of each family to score, of split val.")] = 40,
    debug: Debug = False,
) -> None:
    """Check that motion cannot be answered without watching: from the question's text, or from the last frame.

    A classifier learns from the split train and is scored on val. In each family about motion, the 95 % intervals of
    the text alone and of the last frame have to hold chance; in the others, the last frame has to be far above it. The
    first and the middle frame are shown for comparison. Exits with 1 where a family fails.

    Example: theworld micro-world check --family direction --family plausible
    """
    with imports.kept():
        from theworld_train.jobs import Bars
        from theworld_train.microworld.baselines import baselines

    with Bars() as bars:
        found = baselines(
            family or (),
            level=level,
            seed=seed,
            train_groups=train_groups,
            val_groups=val_groups,
            report=bars.add("families"),
        )
    _print_baselines(found)
    problems = [f"{one.family}: {one.problem}" for one in found if one.problem]
    if problems:
        print("\n" + "\n".join(problems))
        raise typer.Exit(1)
    print(f"\nall {len(found)} families pass")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="PNG file to write.", show_default=False)],
    split: Annotated[str, typer.Option(help="train, val, test or test-extrapolation.")] = "train",
    family: Families = None,
    level: Level = "easy",
    seed: Seed = 0,
    size: Annotated[int, typer.Option(help="Side of a frame in pixels.", min=32)] = 48,
    debug: Debug = False,
) -> None:
    """Draw the first group of each family as film strips, one for each clip.

    Example: theworld micro-world sheet --out sheet.png --family plausible --level hard
    """
    from theworld_train.microworld.sheet import sheet as job

    image = job(family or (), split=split, level=level, seed=seed, size=size)
    image.quantize(256).save(out, format="PNG", optimize=True)


def _print_baselines(found: "list[Baseline]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("family")
    for title in ("about", "clips", "chance", "text", "last frame", "first frame", "middle frame"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found:
        scores = (one.text, one.last, one.first, one.middle)
        table.add_row(
            one.family,
            "motion" if one.motion else "one frame",
            f"{one.last.total:,}",
            f"{one.last.chance:.0%}",
            *(f"{s.value:.0%} [{s.interval()[0]:.0%}, {s.interval()[1]:.0%}]" for s in scores),
        )
    Console(width=130, markup=False, highlight=False, emoji=False).print(table)
