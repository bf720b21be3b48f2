"""The command ``theworld``. It is the one place that prints; what can go wrong for a user ends as one line."""

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from theworld_train import (
    cli_ablate,
    cli_cache,
    cli_compare,
    cli_data,
    cli_doctor,
    cli_encoders,
    cli_estimate,
    cli_evaluate,
    cli_judge,
    cli_launch,
    cli_micro_world,
    cli_push,
    cli_sensitivity,
    cli_train,
)

app = typer.Typer(
    help="World tokens for Gemma 3: answer questions about pictures and clips, and see what a world model adds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_cache.app, name="cache")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_micro_world.app, name="micro-world")
app.add_typer(cli_encoders.app, name="encoders")
app.command()(cli_train.train)
app.command()(cli_ablate.ablate)
app.command()(cli_launch.launch)
app.command()(cli_estimate.estimate)
app.command()(cli_push.push)
app.command()(cli_evaluate.evaluate)
app.command()(cli_compare.compare)
app.command()(cli_judge.judge)
app.command()(cli_sensitivity.sensitivity)
app.command()(cli_doctor.doctor)

_FRAMES = 13
"""Frames of a clip for an untrained pair: four latent frames of 14 x 14 fill the 784 slots."""

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@app.callback()
def _commands() -> None:
    """World tokens for Gemma 3: answer questions about pictures and clips, and see what a world model adds."""


@app.command()
def answer(
    question: Annotated[str, typer.Argument(help="What to ask, in quotes.", show_default=False)],
    image: Annotated[list[Path] | None, typer.Option(help="A picture to ask about; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A clip to ask about; may be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A trained checkpoint or adapter: a run's or its own folder, or hub id.")
    ] = None,
    vlm: Annotated[
        str | None, typer.Option(help="Instead of --model: a Gemma 3 VLM, e.g. google/gemma-3-4b-it.")
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(help="With --vlm: its world model, e.g. nvidia/Cosmos-Predict2-2B-Video2World (the default)."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="With --vlm: the encoder that reads --world.")] = "cosmos-predict2-vae",
    no_world: Annotated[bool, typer.Option("--no-world", help="Ask the base VLM: no world tokens.")] = False,
    frames: Annotated[int | None, typer.Option(help="Frames to take of a clip; the checkpoint says.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer at most.")] = 128,
    debug: Debug = False,
) -> None:
    """Answer a question about pictures or clips; the answer streams to standard output.

    Example: theworld answer --model demo-report/model --video clip.mp4 "Which way is it moving?"
    """
    if not question.strip():
        _fail("the question is empty. Write what you want to know, in quotes.")
    if (model is None) == (vlm is None):
        _fail("give either --model (a trained checkpoint) or --vlm (a Gemma 3 VLM to put a world model beside).")
    from theworld_fusion import assemble
    from theworld_train import answer as job
    from theworld_train.trained import open_trained

    if model is not None:
        processor, load = open_trained(model)
        media = job.load_media(image or [], video or [], frames or processor.world_num_frames)
        loaded = load()
    else:
        media = job.load_media(image or [], video or [], frames or _FRAMES)
        loaded, processor = assemble(str(vlm), world, encoder=encoder, num_frames=frames or _FRAMES)
        if not no_world:
            _say("the world projector is new and untrained: its tokens mean nothing yet. Compare with --no-world.")
    for path, clip in zip(video or [], media.videos, strict=True):
        _say(job.describe(path, clip) + ("; without the world, only the last one is seen" if no_world else ""))
    job.answer(loaded, processor, media, question, world=not no_world, max_new_tokens=max_new_tokens)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report"),
    seed: Annotated[int, typer.Option(help="Seed of clips, weights and batches; try another one.", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Train on a micro-world of moving objects and show what the world tokens add: offline, on a CPU, in minutes.

    Two models are trained, with world tokens and without; then the world input is swapped at test time. Ends with a
    table, and with a report to open in a browser.
    """
    from transformers.utils.logging import disable_progress_bar

    from theworld_train.demo import run_demo

    disable_progress_bar()  # its models load in a blink
    run_demo(out, seed=seed, say=print)


def main() -> None:
    """Entry point: exit code 0, or 2 with one line on standard error."""
    # Torch and transformers make half a million objects, which stay: Python would look through them for garbage again
    # and again while they are imported, and once more as it ends, for a third of a command's start.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in sys.argv:
            raise
        _fail(" ".join(str(error).split()))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _fail(text: str) -> NoReturn:
    print(f"theworld: {text}", file=sys.stderr)
    raise SystemExit(2)
