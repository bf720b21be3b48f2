"""Weights dealt out over the processes of a run (FSDP2): which are, and what a process keeps of its optimiser.

accelerate's launcher and configuration ask for it, but the units are cut here. Cut by layers of the towers too, as it
does, a process would gather one that others never ask for, because their batch has no picture, and wait for ever.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType, parse_flag_from_env
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

from theworld_train.errors import UsageError
from theworld_train.parts import part_of

_REFUSED = {
    "FSDP_CPU_RAM_EFFICIENT_LOADING": (
        "fsdp_cpu_ram_efficient_loading",
        "it leaves the model empty on all processes but one, before the world's weights are in it",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "fsdp_activation_checkpointing",
        "the recipe's model.gradient_checkpointing says whether activations are computed again",
    ),
}
"""Settings of accelerate that cannot be followed, by their environment variable: name and why."""


def is_wanted() -> bool:
    """Whether accelerate was told to deal weights out, and there are processes to deal them out to."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and torch.distributed.is_initialized()


def check_settings() -> None:
    """Raises:
    UsageError: weights are to be dealt out, and accelerate's configuration asks for something that cannot be followed.
    """
    if not is_wanted():
        return
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise UsageError(f"accelerate's configuration has fsdp_version {version}. Set fsdp_version: 2, or use DDP.")
    for variable, (name, why) in _REFUSED.items():
        if parse_flag_from_env(variable):
            raise UsageError(f"accelerate's configuration has {name}: true, but {why}. Set {name}: false.")


def offload_policy() -> OffloadPolicy:
    """Where parts rest between two uses: on the device, or in the machine's memory if accelerate was told so.

    There they are updated too: gradients arrive after each backward pass, and the optimiser's state never leaves.
    """
    if not parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=torch.accelerator.is_available())  # pinned, copies overlap with arithmetic


def shard(model: nn.Module, dtype: torch.dtype, device: torch.device | None) -> None:
    """Deal the language model out, in place, layer by layer, and with it whatever else is trained.

    Every process runs each decoder layer once for each batch, so they are units of their own. Embeddings, and what is
    trained of the towers and projectors, make up the root's: it is gathered at every step, whether a batch has pictures
    or not. Frozen weights outside of the language model stay whole on every process and are never sent.

    Args:
        model: in memory, the same on every process, with ``requires_grad`` as it will stay.
        dtype: that layers are gathered and computed in; trained weights and their gradients' sums stay as they are.
        device: of this process.
    """
    reshard, rests = FullyShardedDataParallelPlugin().reshard_after_forward, offload_policy()
    # Autocast decides on what is computed in which dtype, as it does without FSDP, so inputs are left alone.
    narrow = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in model.modules():
        if isinstance(module, Gemma3DecoderLayer):
            fully_shard(module, mp_policy=narrow, reshard_after_forward=bool(reshard), offload_policy=rests)
    whole = {
        parameter
        for name, parameter in model.named_parameters()
        if part_of(name) != "language_model" and not parameter.requires_grad
    }
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    root = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mp_policy=root, ignored_params=whole, offload_policy=rests)


def resting(model: nn.Module) -> dict[str, int]:
    """Bytes of weights that this process keeps between two steps, by kind of device."""
    found = Counter[str]()
    for parameter in model.parameters():
        part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        found[part.device.type] += part.nbytes
    return dict(found)


def reshard(model: nn.Module) -> None:
    """Let go of what was gathered for a forward pass that no backward pass followed."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def announce(accelerator: Accelerator) -> None:
    """Let accelerate treat the model as FSDP's on the CPU too, where by itself it does not."""
    state = accelerator.state
    if state.distributed_type != DistributedType.FSDP:
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()


def save_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Write this process's part of the state."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": (value.to_local() if isinstance(value, DTensor) else value).contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    save_file(tensors, file, metadata={"groups": json.dumps(state["param_groups"])})


def load_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Read what ``save_optimizer`` wrote in the process of the same number, of as many."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as tensors:
        groups: list[dict[str, Any]] = json.loads(tensors.metadata()["groups"])
        for key in tensors.keys():  # noqa: SIM118  # it is no mapping
            index, _, name = key.partition(".")
            value, like = tensors.get_tensor(key), parameters[int(index)]
            if value.ndim:
                value = DTensor.from_local(
                    value.to(like.device), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
                )
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
