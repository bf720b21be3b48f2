"""Estimates are held against what a real step allocates and computes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD
from theworld_train.data import Batches, load
from theworld_train.estimate import ACCELERATORS, Cluster, Geometry, count_step, plan
from theworld_train.estimate.plan import Accelerator
from theworld_train.launch.command import Strategy
from theworld_train.recipe import Recipe
from theworld_train.recipe_file import load_recipe
from theworld_train.trainable import apply_parts

ALL = "stages.0.parts={world_projector: {}, image_projector: {}, language_model: {}, vision_tower: {}}"
PACKED = "batch={size: 8, packing: samples, row_tokens: 300}"
LORA = "stages.0.parts={world_projector: {}, language_model: {lora: {rank: 4}}}"
CHECKPOINTING = "model.gradient_checkpointing=true"


def recipe_of(*changes: str) -> Recipe:
    start = ("batch.size=8", "stages.0.data.workers=0", "stages.0.data.holdout=0", "eval=null")
    return load_recipe("smoke", [*start, *changes])


def real_step(recipe: Recipe, folders: Any) -> tuple[Any, dict[str, Any], Callable[[], None]]:
    """The toy pair with the recipe's parts, a batch of the recipe's data, and a function that trains on it."""
    model, processor = assemble(*folders, **TINY_WORLD, dtype=getattr(torch, recipe.model.dtype))
    apply_parts(model, recipe.stages[0].parts, recipe.optim.lr)
    if recipe.model.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.model.world_encoder.eval()
    batch = next(load(Batches(recipe.stages[0].data, recipe.batch, processor, seed=0)))["inputs"]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.model.dtype == "bfloat16"):
            model(**batch, use_cache=False).loss.backward()

    return model, batch, step


def geometry_of(batch: dict[str, Any]) -> Geometry:
    slots, examples = 27, len(batch["pixel_values"])  # three latent frames of 3 x 3
    return Geometry(
        frames=9,
        text_tokens=batch["input_ids"].numel() // examples - slots - 16,
        labelled=round(int((batch["labels"] >= 0).sum()) / examples),
    )


def allocated(step: Callable[[], None]) -> int:
    """Most bytes that the allocator had given out during the step, more than before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    results: Any = run.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    changes = [event.nbytes() for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "changes",
    [(), (ALL,), (LORA,), (CHECKPOINTING, ALL), (PACKED,), ("model.dtype=bfloat16",), ("model.dtype=bfloat16", ALL)],
    ids=str,
)
def test_memory_is_within_a_tenth_of_what_is_allocated(changes: tuple[str, ...], folders: Any) -> None:
    recipe = recipe_of(*changes)
    model, batch, step = real_step(recipe, folders)
    count = count_step(recipe, geometry=geometry_of(batch))
    assert (count.batch_rows, count.tokens) == batch["input_ids"].shape
    gradients = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    assert count.activations + gradients == pytest.approx(allocated(step), rel=0.1)
    assert sum(count.weights.values()) == sum(one.nbytes for one in model.parameters())


@pytest.mark.parametrize("changes", [(), (ALL,), (CHECKPOINTING,), (PACKED,)], ids=str)
def test_operations_are_those_of_a_real_step(changes: tuple[str, ...], folders: Any) -> None:
    recipe = recipe_of(*changes)
    model, batch, step = real_step(recipe, folders)
    model.set_attn_implementation("eager")  # whose products torch counts
    with FlopCounterMode(display=False) as counter:
        step()
    count = count_step(recipe, geometry=geometry_of(batch))
    assert count.total_flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert sum(count.flops.values()) == count.total_flops


def test_plans_add_up(folders: Any) -> None:
    count = count_step(recipe_of(ALL))
    weights = sum(count.weights.values())
    alone, ddp = (plan(count, Cluster(gpus=gpus)) for gpus in (1, 4))
    assert alone.memory["weights"] == weights
    assert alone.communication == 0
    assert ddp.total_memory - alone.total_memory == 4 * count.trained
    assert ddp.examples == 4 * alone.examples
    speed = ACCELERATORS["h100"].teraflops * 1e12 * 0.3
    assert ddp.compute == alone.compute == count.total_flops / speed
    one, two = (plan(count, Cluster(gpus=gpus, strategy="fsdp2")) for gpus in (1, 2))  # one deals out to itself
    for name, size in one.memory.items():
        assert size == (2 * two.memory[name] if "share" in name else two.memory[name])
    assert one.memory["weights, whole"] + one.memory["weights, this share"] == weights
    assert (one.total_memory > alone.total_memory, one.communication) == (True, 0)
    assert plan(count, Cluster(), accumulate=3).compute == count.total_flops * 3 / speed


def test_what_rests_on_the_host_leaves_the_device(folders: Any) -> None:
    """One process too deals out, and so offloads, what it shares with nobody."""
    count = count_step(recipe_of(ALL))
    one, two = (plan(count, Cluster(gpus=gpus, strategy="fsdp2_offload")) for gpus in (1, 2))
    apart = plan(count, Cluster(gpus=2, strategy="fsdp2"))
    assert one.host_memory == {name: 2 * size for name, size in two.host_memory.items()}
    assert sum(one.host_memory.values()) == count.dealt + 12 * count.trained
    assert {name: size for name, size in two.memory.items() if "share" not in name} == {
        name: size for name, size in apart.memory.items() if "share" not in name
    }
    assert (one.to_device, one.to_host) == (2 * two.to_device, 2 * two.to_host)
    assert two.seconds[1] - two.to_device - two.to_host == pytest.approx(apart.seconds[1])
    three = plan(count, Cluster(strategy="fsdp2_offload"), accumulate=3)
    assert (three.to_device, three.to_host) == pytest.approx((3 * one.to_device, 3 * one.to_host))
    slow = plan(count, Cluster(strategy="fsdp2_offload", utilisation=1))
    assert slow.seconds[0] == slow.to_device > slow.compute  # copies are what a step of a toy waits for


def test_caches_of_a_recipe_are_given_features_and_towers_at_rest(theworld: Any) -> None:
    both = ("--set", "stages.0.data.cache=c", "--set", "stages.0.data.vision_cache=c")
    live, cached, named = (
        json.loads(theworld("estimate", "smoke", "--json", *options).out)["count"]
        for options in ((), both, ("--cached-world", "--cached-vision"))
    )
    assert cached == named
    for part in ("vision_tower", "world_encoder"):
        assert live["flops"][part] > cached["flops"][part] == 0
        assert live["weights"].pop(part) > cached["weights"].pop(part) == 0
        del live["flops"][part], cached["flops"][part]
    assert cached["flops"] == live["flops"]
    assert cached["weights"] == live["weights"]


@pytest.mark.parametrize(
    ("batch", "rows", "examples", "tokens"),
    [
        ("{size: 8, packing: samples, row_tokens: 300}", 4, 8, 224),  # each of 112
        ("{size: 9, packing: shared_prefix}", 1, 9, 1008),
        ("{size: 3, packing: samples, row_tokens: 100}", 3, 3, 112),
        ("{tokens: 1000, packing: samples, row_tokens: 400}", 2, 6, 336),
        ("{tokens: 1000}", 8, 8, 112),
    ],
)
def test_rows_of_a_batch(batch: str, rows: int, examples: int, tokens: int) -> None:
    count = count_step(load_recipe("smoke", [f"batch={batch}"]))
    assert (count.batch_rows, count.examples, count.tokens) == (rows, examples, tokens)


def test_packed_rows_are_told(theworld: Any) -> None:
    for packing, told in (("samples", "a batch\n"), ("shared_prefix", "a batch, no two about one picture\n")):
        out = theworld("estimate", "smoke", "--set", f"batch={{size: 2, packing: {packing}}}").out
        assert f"2 examples in 1 rows of 224 tokens {told}" in out


def test_the_command(theworld: Any) -> None:
    told = theworld("estimate", "smoke", "--gpus", "2", "--strategy", "fsdp2")
    assert (told.code, told.err.count("\n")) == (0, 0)
    assert "1 examples of 112 tokens a batch" in told.out
    assert "the machine's memory" not in told.out
    assert "nobody to deal weights out to" not in told.out
    assert "nobody to deal weights out to" in theworld("estimate", "smoke", "--strategy", "fsdp2").out
    offloaded = theworld("estimate", "smoke", "--strategy", "fsdp2_offload").out
    assert "the machine's memory" in offloaded
    assert "if sending and copying is hidden" in offloaded
    facts = json.loads(theworld("estimate", "smoke", "--json").out)
    assert facts["count"]["tokens"] == 112
    assert facts["total_flops"] == sum(facts["count"]["flops"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h1000"], "--device is 'h1000'. Use one of: a100"),
        (["--strategy", "zero3"], "Use one of: ddp, fsdp2, fsdp2_offload"),
        (["--stage", "4"], "smoke has 1"),
        (["--labelled", "99"], "there are 60 text tokens"),
    ],
)
def test_what_cannot_be_estimated(theworld: Any, arguments: list[str], message: str) -> None:
    told = theworld("estimate", "smoke", *arguments)
    assert told.code == 2
    assert message in told.err


def test_what_does_not_fit_is_an_error(theworld: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCELERATORS, "h100", Accelerator(teraflops=989, memory=1e-3, to_host=64))  # pyright: ignore[reportArgumentType]
    told = theworld("estimate", "smoke")
    assert told.code == 2
    assert "Lower batch.size" in told.err


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("fsdp2", ("batch.size=8", ALL)),
        ("fsdp2", ("model.dtype=bfloat16", "batch.size=1", ALL)),
        ("fsdp2_offload", ("batch.size=8", ALL)),
    ],
    ids=["activations", "weights", "offload"],
)
def test_a_process_of_two_takes_and_sends_what_is_planned(
    strategy: Strategy, changes: tuple[str, ...], folders: Any
) -> None:
    """Where activations are most of it, and where weights and gradients that are gathered and summed are.

    Memory of a step is within a tenth of what is allocated; what rests, and what is sent, is told to the byte, but for
    padding. On CPUs there is one memory: what would rest on the host is what was dealt out.
    """
    worker = Path(__file__).with_name("sharded_memory.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(worker)]
    settings = ["stages.0.data.workers=0", "stages.0.data.holdout=0", "eval=null", *changes]
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    sharded["FSDP_OFFLOAD_PARAMS"] = str(strategy == "fsdp2_offload")
    done = subprocess.run(
        [*launcher, str(folders[0].parent), *settings],
        env={**os.environ, **sharded},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    recipe = load_recipe("smoke", settings)
    labelled = round(facts["labelled"] / (recipe.batch.size or 1))
    count = count_step(recipe, geometry=Geometry(frames=9, text_tokens=facts["tokens"] - 27 - 16, labelled=labelled))
    found = plan(count, Cluster(gpus=2, strategy=strategy, bandwidth=1))
    both = found.memory | found.host_memory
    held = both["weights, whole"] + both["weights, this share"]
    assert held == pytest.approx(facts["rests"], rel=1e-3)
    step = sum(both.values()) - held - both["moments, this share"]  # moments come with the optimiser
    assert step == pytest.approx(facts["allocated"], rel=0.1)
    assert found.communication * 1e9 == pytest.approx((facts["gathered"] + facts["scattered"]) / 2, rel=1e-3)
    if strategy == "fsdp2_offload":
        shares = {f"{name}, this share": size for name, size in facts["shares"].items()}
        assert found.host_memory == pytest.approx(shares, rel=1e-3)
        assert not found.memory.keys() & shares.keys()
        link = ACCELERATORS["h100"].to_host * 1e9
        assert found.to_device * link == pytest.approx(facts["gathered"] / 2, rel=1e-3)  # in float32, as it rests
        assert found.to_host * link == pytest.approx(facts["shares"]["gradients"], rel=1e-3)
