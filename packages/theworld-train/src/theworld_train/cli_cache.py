"""``theworld cache``: features on disk, computed once for training, evaluation and answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from theworld_train import imports

if TYPE_CHECKING:
    from theworld_train.cache import Built
    from theworld_train.processes import Rank

app = typer.Typer(help="Compute features once, and keep them on disk.", no_args_is_help=True, rich_markup_mode=None)

Dtype = Literal["float32", "bfloat16", "float16"]


@app.callback()
def _commands() -> None:
    """Compute features once, and keep them on disk."""


@app.command()
def build(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            help='A folder of pictures and clips, or a JSONL file: {"image": PATH}, {"video": PATH} or '
            '{"messages": [a chat with image and video blocks]} on each line.',
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the cache of --data; one that is there is continued.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Instead of --data: a recipe, by name or path, whose data.cache and data.vision_cache are filled."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="With --recipe, as of theworld train.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Name of the encoder.")] = "cosmos-predict2-vae",
    weights: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of its weights, e.g. nvidia/Cosmos-Predict2-2B-Video2World (the default)."),
    ] = None,
    frame_size: Annotated[
        int | None, typer.Option(help="Side of its input in pixels; the encoder says.", min=1)
    ] = None,
    num_frames: Annotated[int, typer.Option(help="Even frames to take of each clip.", min=1)] = 13,
    dtype: Annotated[
        Dtype, typer.Option(help="Number type of its weights; take the model's: bfloat16 for Gemma 3 as published.")
    ] = "float32",
    max_bytes: Annotated[
        int | None, typer.Option(help="Above this size of --out, the oldest features are removed.", min=1)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Encode every picture and clip of a data set that the cache does not have yet.

    Stop it whenever you like; the same command goes on where it was. Inputs that cannot be read are listed in
    dead.jsonl in the cache, and the rest is built. The features are found again only by a model whose world encoder has
    the same weights, number type, frame size and frames of a clip.

    With --recipe, data, model and folders are the recipe's: the world's features go to data.cache of its stages, those
    of Gemma's vision tower to data.vision_cache.

    Example: theworld cache build --data clips/ --out features/

    Example: theworld cache build --recipe align-projector --set stages.0.data.vision_cache=features

    On 8 GPUs: torchrun --standalone --nproc-per-node 8 --no-python theworld cache build --data clips/ --out features/
    """
    from theworld_train.errors import UsageError

    if recipe is not None:
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("data", "out", "encoder", "weights", "frame_size", "num_frames", "dtype")
            if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
        ]
        if given:
            raise UsageError(f"--recipe says what {given[0]} would. Leave {' and '.join(given)} out, or use --set.")
        _fill(recipe, changes or (), max_bytes)
        return
    if changes:
        raise UsageError("--set changes a recipe. Give one with --recipe, or leave --set out.")
    if data is None or out is None:
        raise UsageError("give --data and --out, or --recipe.")
    with imports.kept():
        import torch

        from theworld_encoders import FeatureCache, load_encoder
        from theworld_train.cache import Row, Tower, check_built, room, world_bytes
        from theworld_train.cache import build as job
        from theworld_train.jobs import Bars
        from theworld_train.media import find_media
        from theworld_train.processes import Rank

    rank, found = Rank.of_this_process(), find_media(data)
    media = list(rank.share(found))
    loaded = load_encoder(encoder, weights, frame_size=frame_size, dtype=getattr(torch, dtype), device=rank.device())
    loaded.spec.grid(1, loaded.spec.frame_size, loaded.spec.frame_size)  # a wrong size fails here, not on every input
    cache, dead_file = FeatureCache(out, loaded, max_bytes=max_bytes), rank.dead_file(out)
    rank.remove_old_lists(out)
    with Bars(disable=rank.number > 0) as bars:
        sizes = [world_bytes(loaded, num_frames if medium.kind == "video" else 1) for medium in found]
        if rank.number == 0:
            bars.print(room(out, sum(sizes), f"{len(found):,} inputs"))
        bar = bars.add("encoding" if rank.of == 1 else f"encoding, 1 of {rank.of} processes")
        rows = [Row(label=medium.label, sources=lambda one=medium: [one.source(num_frames)]) for medium in media]
        towers = [Tower.of_world(cache, loaded)]
        built = job(rows, towers, dead_file=dead_file, report=bar, total=len(rows), threads=rank.threads())
    _tell(
        rank,
        built,
        str(out),
        dead_file,
        "" if max_bytes is None else f"; {len(cache)} items are kept within {max_bytes} bytes",
    )
    if rank.of == 1:  # of several processes, one without a good input must not stop the others
        check_built(built, dead_file)


def _fill(recipe: str, changes: Sequence[str], max_bytes: int | None) -> None:
    with imports.kept():
        from theworld_train.cache import check_built
        from theworld_train.cache_recipe import fill_caches
        from theworld_train.jobs import Bars
        from theworld_train.processes import Rank
        from theworld_train.recipe_file import load_recipe

    rank, loaded = Rank.of_this_process(), load_recipe(recipe, changes)
    with Bars(disable=rank.number > 0) as bars:
        for filled in fill_caches(loaded, rank, max_bytes=max_bytes, bar=bars.add, say=bars.print):
            _tell(rank, filled.built, f"the cache of {filled.stage}", filled.dead_file, "")
            if rank.of == 1:
                check_built(filled.built, filled.dead_file)


def _tell(rank: "Rank", built: "Built", where: str, dead_file: Path, kept: str) -> None:
    who = "" if rank.of == 1 else f"process {rank.number + 1} of {rank.of}: "
    dead = f", {built.dead} cannot be read: see {dead_file}" if built.dead else ""
    print(f"{who}{built.total} inputs: {built.encoded} encoded, {built.cached} were in {where}{dead}{kept}", flush=True)
