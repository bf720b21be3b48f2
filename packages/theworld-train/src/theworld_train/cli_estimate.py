"""``theworld estimate``: what a recipe takes, from its model's sizes alone."""

import json
from dataclasses import asdict
from typing import Annotated, get_args

import typer

from theworld_train import imports
from theworld_train.errors import UsageError


def estimate(
    recipe: Annotated[
        str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="As of theworld train; may be repeated.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Processes, one for each device.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="a100, h100, h200 or b200.")] = "h100",
    strategy: Annotated[
        str,
        typer.Option(
            help="ddp (every process has all), fsdp2 (weights dealt out) or fsdp2_offload (and resting on the host)."
        ),
    ] = "ddp",
    utilisation: Annotated[
        float, typer.Option(help="Share of the device's peak that a step reaches.", min=0.01, max=1)
    ] = 0.3,
    bandwidth: Annotated[float, typer.Option(help="GB/s that a process can send.", min=0.001)] = 50.0,
    stage: Annotated[int, typer.Option(help="Which of the recipe's stages, from 0.", min=0)] = 0,
    frames: Annotated[int, typer.Option(help="Frames of an example's clip; 1 is a picture.", min=1)] = 1,
    text_tokens: Annotated[int, typer.Option(help="Text of an example, chat markup included.", min=1)] = 60,
    labelled: Annotated[int, typer.Option(help="Of them, those that carry loss.", min=1)] = 32,
    cached_world: Annotated[
        bool, typer.Option("--cached-world", help="World features are given, as with data.cache.")
    ] = False,
    cached_vision: Annotated[
        bool, typer.Option("--cached-vision", help="Image features are given, as with data.vision_cache.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the tables.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Say what a recipe takes before anybody pays for it: memory of a process, operations and time of a step.

    One step is run on tensors without values, in about a minute for Gemma 3 4B; no weights are read and no accelerator
    is needed. Time is operations by the device's peak and --utilisation: measure one step, and set it.

    Example: theworld estimate align-projector --gpus 8

    Example: theworld estimate full-finetune --gpus 64 --strategy fsdp2 --device h200
    """
    with imports.kept():
        from transformers.utils.logging import disable_progress_bar

        from theworld_train.estimate import ACCELERATORS, Cluster, Geometry, count_step, plan
        from theworld_train.launch.command import Strategy
        from theworld_train.recipe_file import load_recipe

    for name, value, known in (("device", device, list(ACCELERATORS)), ("strategy", strategy, get_args(Strategy))):
        if value not in known:
            raise UsageError(f"--{name} is {value!r}. Use one of: {', '.join(known)}.")
    if labelled > text_tokens:
        raise UsageError(f"--labelled is {labelled}, but there are {text_tokens} text tokens. Raise --text-tokens.")
    loaded = load_recipe(recipe, changes or ())
    if stage >= len(loaded.stages):
        raise UsageError(f"--stage is {stage}, but {loaded.name} has {len(loaded.stages)}, counted from 0.")
    disable_progress_bar()  # a toy pair is written in a blink
    data = loaded.stages[stage].data
    geometry = Geometry(
        frames=frames,
        text_tokens=text_tokens,
        labelled=labelled,
        cached_world=cached_world or data.cache is not None,
        cached_vision=cached_vision or data.vision_cache is not None,
    )
    count = count_step(loaded, stage, geometry)
    cluster = Cluster(gpus=gpus, device=device, strategy=strategy, utilisation=utilisation, bandwidth=bandwidth)  # pyright: ignore[reportArgumentType]
    found = plan(count, cluster, accumulate=loaded.batch.accumulate)
    if as_json:
        facts = {"count": asdict(count), "cluster": asdict(cluster), "plan": asdict(found)}
        print(json.dumps(facts | {"total_memory": found.total_memory, "total_flops": count.total_flops}, indent=2))
        return
    steps, room = loaded.stages[stage].steps, ACCELERATORS[device].memory
    batch = f"{count.examples} examples of {count.tokens} tokens a batch"
    if loaded.batch.packing != "none":
        batch = f"{count.examples} examples in {count.batch_rows} rows of {count.tokens} tokens a batch"
    if loaded.batch.packing == "shared_prefix":
        batch += ", no two about one picture"
    print(f"{loaded.name}, stage {loaded.stages[stage].name}: {batch}")
    print(f"\nmemory of a process, GB        {found.total_memory / 1e9:10.2f}  of {room:g}")
    for name, size in found.memory.items():
        print(f"  {name:<28} {size / 1e9:10.2f}")
    if found.host_memory:
        print(f"\nthe machine's memory, GB       {sum(found.host_memory.values()) / 1e9:10.2f}  for each process")
        for name, size in found.host_memory.items():
            print(f"  {name:<28} {size / 1e9:10.2f}")
    if strategy == "fsdp2" and gpus == 1:
        print("\none process has nobody to deal weights out to: copies of them come on top. Use ddp, which has none.")
    print(f"\noperations of a batch, TFLOP   {count.total_flops / 1e12:10.2f}")
    for name, flops in count.flops.items():
        print(f"  {name:<28} {flops / 1e12:10.2f}  {flops / count.total_flops:6.1%}")
    low, high = found.seconds
    copying = " and copying" if found.host_memory else ""
    print(f"\nseconds of a step              {low:10.2f}  if sending{copying} is hidden, {high:.2f} if it is not")
    print(f"  arithmetic                   {found.compute:10.2f}  at {utilisation:.0%} of {device}'s peak")
    print(f"  sending                      {found.communication:10.2f}  at {bandwidth:g} GB/s")
    if found.host_memory:
        link = f"at {ACCELERATORS[device].to_host:g} GB/s"
        print(f"  copying to the device        {found.to_device:10.2f}  {link}")
        print(f"  copying to the host          {found.to_host:10.2f}  {link}; the update on the CPU is not counted")
    print(
        f"\n{found.examples} examples a step on {gpus} devices: {found.examples / low:,.1f} examples a second; ", end=""
    )
    print(f"{steps:,} steps take {steps * low / 3600:,.1f} h")
    if found.total_memory > room * 1e9:
        raise UsageError(
            f"a process needs {found.total_memory / 1e9:.1f} GB and a {device} has {room:g}. Lower batch.size, set "
            "model.gradient_checkpointing=true, or use --strategy fsdp2 on more devices, or fsdp2_offload."
        )
