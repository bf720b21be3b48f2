"""Memory and time of a step for Gemma 3 4B, 12B and 27B on 1 to 1,024 devices: `python benchmarks/scaling.py`, minutes.

Arithmetic by `theworld_train.estimate`, printed as the tables of benchmarks/results/scaling.md: one step of each size
is counted on tensors without values, and planned for each number of devices. It needs no weights and no accelerator.
"""

from collections.abc import Iterator

from theworld_train.estimate import ACCELERATORS, Cluster, Geometry, StepCount, count_step, plan
from theworld_train.recipe_file import load_recipe

SIZES = ("4b", "12b", "27b")
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
DEVICE, UTILISATION, BANDWIDTH = "h100", 0.3, 50.0
SETTINGS = ("batch.size=8", "batch.accumulate=1", "model.gradient_checkpointing=true")
"""On every device. Eight pictures, each with a question and a short answer: 784 world, 256 image and 60 text tokens."""


def counted(size: str, recipe: str, stage: int) -> StepCount:
    return count_step(load_recipe(recipe, [*SETTINGS, f"model.vlm=google/gemma-3-{size}-it"]), stage, Geometry())


def table(count: StepCount, strategies: tuple[str, ...]) -> Iterator[str]:
    """A line for each number of devices: GB of a process, seconds of a step, examples a second by each strategy."""
    yield "| devices |" + "".join(f" {name}: GB | s a step | examples/s |" for name in strategies)
    yield "|---:|" + "---:|---:|---:|" * len(strategies)
    room = ACCELERATORS[DEVICE].memory
    for gpus in DEVICES:
        cells = []
        for strategy in strategies:
            cluster = Cluster(
                gpus=gpus,
                device=DEVICE,
                strategy=strategy,  # pyright: ignore[reportArgumentType]
                utilisation=UTILISATION,
                bandwidth=BANDWIDTH,
            )
            found = plan(count, cluster)
            gigabytes, (low, high) = found.total_memory / 1e9, found.seconds
            fits = f"{gigabytes:.1f}" if gigabytes <= room else f"*{gigabytes:.1f}*"
            if found.host_memory:
                fits += f" and {sum(found.host_memory.values()) / 1e9:.1f}"
            cells.append(
                f" {fits} | {low:.2f} to {high:.2f} | {found.examples / high:,.0f} to {found.examples / low:,.0f} |"
            )
        yield f"| {gpus:,} |" + "".join(cells)


def main() -> None:
    print("# Memory and time of a step, by arithmetic\n")
    print("Made by `python benchmarks/scaling.py`. Nothing here was measured on an accelerator.\n")
    print(
        f"{DEVICE.upper()} with {ACCELERATORS[DEVICE].memory:g} GB, {UTILISATION:.0%} of its peak, {BANDWIDTH:g} GB/s "
        f"sent by each, {ACCELERATORS[DEVICE].to_host:g} GB/s each way to the host; 8 examples on every device, "
        "activations computed again. Seconds: if all sending and copying is hidden behind arithmetic, and if none is. "
        "What does not fit is in italics. With fsdp2_offload, GB of a process on its device and in the machine's "
        "memory; updates on the CPU are not counted."
    )
    kinds = (
        ("projector alone", "align-projector", 0, ("ddp", "fsdp2")),
        ("projector and language model", "full-finetune", 2, ("ddp", "fsdp2", "fsdp2_offload")),
    )
    for title, recipe, stage, strategies in kinds:
        for size in SIZES:
            count = counted(size, recipe, stage)
            print(f"\n## Gemma 3 {size.upper()}, {title}\n")
            print(
                f"{count.trained / 1e6:,.0f} million trained weights; {count.total_flops / 1e12:,.0f} TFLOP a step on "
                f"each device; {count.activations / 1e9:.1f} GB of activations.\n"
            )
            print("\n".join(table(count, strategies)), flush=True)


if __name__ == "__main__":
    main()
