"""``theworld encoders``: what there is, and what linear probes read from it."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from theworld_train import imports
from theworld_train.cli_table import print_table
from theworld_train.folders import make_folder

app = typer.Typer(rich_markup_mode=None)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@app.callback(invoke_without_command=True)
def encoders(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the tables.")] = False,
    debug: Debug = False,
) -> None:
    """List the encoders whose features can become world tokens, and the controls to compare them with.

    Columns: numbers in each token; the pixels (along each side) and frames that a token stands for; tokens of one
    picture, and of a clip of 9 frames, before a model resamples them to its own budget; parameters, and their memory
    in bfloat16 (a dash: the library that builds the encoder is not installed); the licence of the weights. For a
    gated encoder, accept its terms on the hub and log in first.

    Take one with: theworld answer --vlm google/gemma-3-4b-it --encoder NAME --image photo.jpg "What is it?"
    """
    if context.invoked_subcommand is not None:
        return
    with imports.kept():
        from theworld_train import encoders as job

    facts, problems = job.all_encoders()
    if as_json:
        print(json.dumps(job.as_json(facts), indent=2, ensure_ascii=False))
    else:
        rows = [
            [
                one.name,
                f"{one.width:,}",
                f"{one.spatial_stride} px, {one.temporal_stride} fr",
                f"{one.image_tokens:,}",
                f"{one.clip_tokens:,}",
                "-" if one.parameters is None else f"{one.parameters / 1e6:,.1f} M",
                "-" if one.megabytes is None else f"{one.megabytes:,.0f} MB",
                one.licence + (", gated" if one.gated else ""),
            ]
            for one in facts
        ]
        print_table(["encoder", "width", "strides", "image", "clip", "params", "memory", "licence"], rows, numbers=6)
        print("\nControls stand around an encoder: --encoder zeros, or --encoder zeros:NAME around another one.\n")
        print_table(["control", "what the model gets"], [list(row) for row in job.all_controls().items()], numbers=0)
    for problem in problems:
        print(f"theworld: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)


@app.command()
def probe(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Encoders and controls to rank, as `theworld encoders` lists them; NAME=WEIGHTS for weights of its "
            "own, a folder or hub id.",
            metavar="NAME[=WEIGHTS]...",
            show_default=False,
        ),
    ],
    world: Annotated[
        str | None, typer.Option(help="Weights for those without =WEIGHTS; the published ones of each by default.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Toy weights, random: to see it work, offline, in two minutes.")
    ] = False,
    frame_size: Annotated[
        int | None, typer.Option(help="Side of their input in pixels; each encoder says.", min=1)
    ] = None,
    groups: Annotated[int, typer.Option(help="Matched groups of clips to fit each probe on.", min=4)] = 64,
    split: Annotated[
        Literal["val", "test"],
        typer.Option(help="Clips to score on. Choose layers and settings on val; leave test for the end."),
    ] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the clips and of the resamplings.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Where the score card goes, and the features.")] = Path("probe-report"),
    cache: Annotated[Path | None, typer.Option(help="Folder of the features, if not in --out.")] = None,
    debug: Debug = False,
) -> None:
    """Rank encoders in minutes, without a language model: what can be read linearly from their features.

    Ridge and logistic regressions read position, velocity and more from the features of micro-world clips, beside raw
    pixels, noise and zeros. All features are cut to one width, so a wide encoder does not win by its width. Chance and
    95 % intervals stand beside each figure. Leaves probes.md, probes.png and probes.json in --out; features are kept,
    so a second call is quick.

    Example: theworld encoders probe cosmos-predict2-vae random-init:cosmos-predict2-vae vjepa2
    """
    with imports.kept():
        from theworld_encoders import Encoder
        from theworld_train.evaluate.probe import ProbeSettings, run_probes, write_card
        from theworld_train.evaluate.probe.card import notes, table
        from theworld_train.evaluate.probe.load import check_names, load_named
        from theworld_train.jobs import Bars

    check_names(names, world, tiny=tiny)
    make_folder(out)
    settings = ProbeSettings(groups=groups, split=split, seed=seed)
    with tempfile.TemporaryDirectory() as scratch, Bars() as bars:

        def load(name: str) -> Encoder:
            return load_named(name, world, frame_size=frame_size, tiny=Path(scratch) if tiny else None)

        card = run_probes(names, load, cache=cache or out / "features", settings=settings, report=bars.add)
    write_card(card, out)
    header, rows = table(card)
    print_table(header, rows, numbers=len(header) - 1)
    print("\n" + "\n".join(notes(card)) + f"\n\nscore card: {out / 'probes.md'}, {out / 'probes.png'}")
