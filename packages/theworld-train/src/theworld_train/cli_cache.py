"""``theworld cache``: world features on disk, computed once for training, evaluation and answers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Compute world features once, and keep them on disk.", no_args_is_help=True, rich_markup_mode=None
)

Dtype = Literal["float32", "bfloat16", "float16"]


@app.callback()
def _commands() -> None:
    """Compute world features once, and keep them on disk."""


@app.command()
def build(
    data: Annotated[
        Path,
        typer.Option(
            help='A folder of pictures and clips, or a JSONL file: {"image": PATH}, {"video": PATH} or '
            '{"messages": [a chat with image and video blocks]} on each line.',
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the cache; one that is there is continued.", show_default=False)],
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

    Example: theworld cache build --data clips/ --out features/

    On 8 GPUs: torchrun --standalone --nproc-per-node 8 --no-python theworld cache build --data clips/ --out features/
    """
    import torch

    from theworld_encoders import FeatureCache, load_encoder
    from theworld_train.cache import Rank, check_built
    from theworld_train.cache import build as job
    from theworld_train.jobs import Bars
    from theworld_train.media import find_media

    rank = Rank.of_this_process()
    media = rank.share(find_media(data))
    loaded = load_encoder(encoder, weights, frame_size=frame_size, dtype=getattr(torch, dtype), device=rank.device())
    loaded.spec.grid(1, loaded.spec.frame_size, loaded.spec.frame_size)  # a wrong size fails here, not on every input
    cache, dead_file = FeatureCache(out, loaded, max_bytes=max_bytes), rank.dead_file(out)
    rank.remove_old_lists(out)
    with Bars(disable=rank.number > 0) as bars:
        bar = bars.add("encoding" if rank.of == 1 else f"encoding, 1 of {rank.of} processes")
        built = job(media, cache, num_frames=num_frames, dead_file=dead_file, report=bar)
    who = "" if rank.of == 1 else f"process {rank.number + 1} of {rank.of}: "
    dead = f", {built.dead} cannot be read: see {dead_file}" if built.dead else ""
    kept = "" if max_bytes is None else f"; {len(cache)} items are kept within {max_bytes} bytes"
    print(f"{who}{built.total} inputs: {built.encoded} encoded, {built.cached} were in {out}{dead}{kept}", flush=True)
    if rank.of == 1:  # of several processes, one without a good input must not stop the others
        check_built(built, dead_file)
