"""`sharded_memory.py FOLDER CHANGE...`, under torchrun on CPUs: what a step takes in a process of FSDP2, as JSON.

FOLDER has the toy pair; the changes are of the toy recipe.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD
from theworld_train import sharding
from theworld_train.data import Batches, load
from theworld_train.reach import reach_all
from theworld_train.recipe_file import load_recipe
from theworld_train.trainable import apply_parts


class Sent(TorchDispatchMode):
    """Bytes, by kind, of what all processes together gather and scatter."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.scattered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.gathered += args[0].nbytes
        elif func is torch.ops.c10d._reduce_scatter_base_.default:
            self.scattered += args[1].nbytes
        return func(*args, **(kwargs or {}))


def shares(model: nn.Module) -> dict[str, int]:
    """Bytes of this process's part of what was dealt out, after a step of the optimiser: what would be on the host."""
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    moments = [optimizer.state[one][name] for one in trained for name in ("exp_avg", "exp_avg_sq")]
    kinds = {"weights": model.parameters(), "gradients": [one.grad for one in trained], "moments": moments}
    return {
        name: sum(one.to_local().nbytes for one in kind if isinstance(one, DTensor)) for name, kind in kinds.items()
    }


def main(folder: Path, changes: list[str]) -> None:
    distributed.init_process_group("gloo")
    recipe = load_recipe("smoke", changes)
    dtype = getattr(torch, recipe.model.dtype)
    torch.manual_seed(0)
    model, processor = assemble(folder / "vlm", folder / "world", **TINY_WORLD, dtype=dtype)
    apply_parts(model, recipe.stages[0].parts, recipe.optim.lr)
    if recipe.model.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.model.world_encoder.eval()
    reach_all(model)
    sharding.shard(model, dtype, torch.device("cpu"))
    rests = sum(sharding.resting(model).values())
    batch: Any = next(load(Batches(recipe.stages[0].data, recipe.batch, processor, seed=0)))["inputs"]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            model(**batch, use_cache=False).loss.backward()

    step()  # the first one makes what later ones find
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    results: Any = run.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    now = peak = 0
    for event in results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    model.zero_grad()
    with Sent() as sent:
        step()
    if distributed.get_rank() == 0:
        facts = {"rests": rests, "allocated": peak, "tokens": batch["input_ids"].shape[1]}
        facts |= {"gathered": sent.gathered, "scattered": sent.scattered, "shares": shares(model)}
        facts["labelled"] = int((batch["labels"] >= 0).sum())
        sys.stdout.write(json.dumps(facts) + "\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
