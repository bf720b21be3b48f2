# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false, reportReturnType=false, reportCallIssue=false
# transformers annotates sub-configurations, and torch what it keeps from compilers, otherwise than they are.
"""One training step of a recipe's stage, run on tensors without values: what it computes, and what it keeps.

The model, the loss, the trained parts and the optimiser are the real ones, so there is no formula that could forget a
copy. Memory is the sum of all storages that live at a time; operations are torch's own count.
"""

import math
import sys
import weakref
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from theworld_fusion import TheWorldForConditionalGeneration
from theworld_fusion.loss import supervised_loss
from theworld_fusion.slots import num_slots
from theworld_train.data.packing import row_limit
from theworld_train.estimate.sizes import config_of
from theworld_train.parts import PARTS, part_of
from theworld_train.recipe import PartName, Recipe
from theworld_train.trainable import PartRow, apply_parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """One example. The default is a picture with a question and a short answer."""

    frames: int = 1
    """Of its picture (1) or clip."""
    text_tokens: int = 60
    """Chat markup, question and answer."""
    labelled: int = 32
    """Of them, those that carry loss."""
    cached_world: bool = False
    cached_vision: bool = False
    """Whether features are given, so that the encoder does not run, and rests in the machine's memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCount:
    """What one process computes and keeps in a step of one batch, if it has the whole model."""

    rows: list[PartRow]
    examples: int
    """Of the batch."""
    batch_rows: int
    """That they stand in; as many as examples, but for ``batch.packing``."""
    tokens: int
    """Of one row, world and image tokens included."""
    flops: dict[str, int]
    """Floating point operations, forwards and backwards, by part, the head of the language model apart."""
    weights: dict[PartName, int]
    """Bytes by part; none of those that rest."""
    trained: int
    """Trained parameters; each has a float32 weight, a gradient and two moments of AdamW."""
    activations: int
    """Most bytes that live at a time beside weights, gradients and moments."""
    dealt: int
    """Bytes of weights that FSDP deals out: the language model, and what else is trained (see ``sharding``)."""
    gathered: int
    """Bytes that a process gathers of them for one pass: layers in the dtype that is computed in, the rest as it is."""
    largest_unit: int
    """Bytes of the largest layer, gathered."""
    largest_dealt: int
    """Bytes of the same, as it is dealt out."""
    root: int
    """Bytes of what is gathered once and stays for the step: embeddings, and what is trained outside of the layers."""

    root_gradients: int
    """Bytes of the gradients of what of the root is trained: whole on every process until the backward pass ends."""
    unit_gradients: int
    """Bytes while the largest layer's gradients are summed: as computed, and in float32 to be sent."""

    @property
    def total_flops(self) -> int:
        return sum(self.flops.values())


def count_step(recipe: Recipe, stage: int = 0, geometry: Geometry | None = None) -> StepCount:
    """Count one batch of ``recipe.batch.size`` examples (of ``tokens``, as many as fit), forwards and backwards.

    With ``batch.packing`` rows hold as many as they have room for; no two share a picture.

    Raises:
        CheckpointError, EncoderError, UsageError: the recipe's model or its trained parts cannot be had.
    """
    geometry, settings = geometry or Geometry(), recipe.stages[stage]
    dtype = getattr(torch, recipe.model.dtype)
    config = config_of(recipe.model)
    with torch.device("meta"):
        model = TheWorldForConditionalGeneration(config).to(dtype)
        rows = apply_parts(model, settings.parts, recipe.optim.lr)
    if recipe.model.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    if config.world_fusion != "none":
        model.model.world_encoder.eval()  # as it was trained
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_device(model)
        batch_rows, in_row = _rows(recipe, stage, model, geometry)
        ids, inputs = _inputs(model, geometry, batch_rows, in_row, dtype)
        if recipe.batch.packing != "none":  # masks are as large whoever sees whom
            inputs |= {name: torch.zeros_like(ids) for name in ("position_ids", "visible_until")}

        places = torch.arange(batch_rows * in_row * geometry.labelled)  # which they are makes no difference

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext():
                outputs = model.model(input_ids=ids, **inputs, use_cache=False, hidden_to_keep=places)
                loss = supervised_loss(outputs.last_hidden_state, torch.zeros_like(places), model.lm_head)
            loss.backward()

        live = _Live()
        live.hold([*model.parameters(), *model.buffers()])
        before = live.now
        with live:
            step()
        gradients = sum(one.nbytes for one in model.parameters() if one.requires_grad)
        # Apart, because the counter's bookkeeping keeps what checkpointing lets go of.
        counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        with counter:
            step()
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return StepCount(
        rows=rows,
        examples=batch_rows * in_row,
        batch_rows=batch_rows,
        tokens=ids.shape[1],
        flops=_by_part(counter, model),
        weights=_weights(model, geometry),
        trained=trained,
        activations=live.peak - before - gradients,
        **_units(model, dtype),
    )


def num_tokens(model: TheWorldForConditionalGeneration, geometry: Geometry) -> tuple[int, int]:
    """World and image tokens of one example."""
    config = model.config
    if config.world_fusion != "sequence":
        return 0, config.mm_tokens_per_image
    frames = model.model.world_encoder.spec.feature_frames(geometry.frames) + config.num_world_steps
    return num_slots(config.world_tokens_per_item, frames), config.mm_tokens_per_image


def _rows(recipe: Recipe, stage: int, model: TheWorldForConditionalGeneration, geometry: Geometry) -> tuple[int, int]:
    """Rows of a batch, and examples in each."""
    batch, length = recipe.batch, sum(num_tokens(model, geometry)) + geometry.text_tokens
    in_row = 1
    if batch.packing != "none":
        in_row = max(1, min(row_limit(batch, recipe.stages[stage].data) // length, batch.size or sys.maxsize))
    if batch.size is not None:
        return math.ceil(batch.size / in_row), in_row
    return max(1, (batch.tokens or length) // (length * in_row)), in_row


def _inputs(
    model: TheWorldForConditionalGeneration, geometry: Geometry, batch_rows: int, in_row: int, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Any]]:
    """Ids with world, image and text tokens, and what the model needs beside them."""
    config, encoder, examples = model.config, model.model.world_encoder, batch_rows * in_row
    world, image = num_tokens(model, geometry)
    ids = torch.zeros(batch_rows, in_row * (world + image + geometry.text_tokens), dtype=torch.long)
    inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    if geometry.cached_vision:
        inputs["image_features"] = torch.empty(examples, image, config.vision_config.hidden_size, dtype=dtype)
    else:
        side = config.vision_config.image_size
        inputs["pixel_values"] = torch.empty(examples, 3, side, side, dtype=dtype)
    if config.world_fusion != "none":
        size = config.world_config.frame_size
        if geometry.cached_world:
            grid = encoder.spec.grid(geometry.frames, size, size)
            inputs["world_features"] = torch.empty(examples, *grid, encoder.spec.width, dtype=dtype)
        else:
            inputs["pixel_values_world"] = torch.empty(examples, geometry.frames, 3, size, size, dtype=dtype)
    return ids, inputs


def _give_device(model: TheWorldForConditionalGeneration) -> None:
    """Put weights that have a device, and still no values, in the place of those of the meta device."""
    stand_ins: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in stand_ins:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_weight = isinstance(tensor, nn.Parameter)
                    stand_ins[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                store[name] = stand_ins[id(tensor)]


_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_CPU_ATTENTION: dict[Any, Any] = {
    _FUSED: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    _FUSED_BACKWARD: lambda _, query, key, value, *__, **___: 2 * sdpa_flop_count(query, key, value),
}
"""What tensors without values on a CPU choose: fused attention, as on other devices, which torch's counter lacks.

That its backward pass computes scores once more is the kernel's affair and not counted, as usual where a model's
operations are compared with a device's peak (Chowdhery et al., arXiv 2204.02311, appendix B).
"""


class _Live(TorchDispatchMode):
    """Bytes of all storages that exist, those that were held from the beginning included."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def hold(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hold([leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)])
        return out


def _by_part(counter: FlopCounterMode, model: TheWorldForConditionalGeneration) -> dict[str, int]:
    """The counter's sums of the modules that are parts; of the head as what is left."""
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    root = type(model.model).__name__
    found = Counter[str]()
    for name, _ in model.model.named_children():
        found[part_of(f"model.{name}.")] += counts.get(f"{root}.{name}", 0)
    found["head"] = counter.get_total_flops() - found.total()
    return dict(found)


def _weights(model: nn.Module, geometry: Geometry) -> dict[PartName, int]:
    sizes: dict[PartName, int] = dict.fromkeys(PARTS, 0)
    at_rest = {"world_encoder": geometry.cached_world, "vision_tower": geometry.cached_vision}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        sizes[part] += 0 if at_rest.get(part) else parameter.nbytes
    return sizes


def _units(model: TheWorldForConditionalGeneration, dtype: torch.dtype) -> dict[str, int]:
    layers = list(model.model.language_model.layers)
    sizes = [dtype.itemsize * sum(one.numel() for one in unit.parameters()) for unit in layers]
    trained = [sum(one.numel() for one in unit.parameters() if one.requires_grad) for unit in layers]
    dealt = root = root_gradients = 0
    for name, parameter in model.named_parameters():
        if part_of(name) == "language_model" or parameter.requires_grad:
            dealt += parameter.nbytes
            if not name.startswith("model.language_model.layers."):
                root += parameter.nbytes
                root_gradients += 4 * parameter.numel() if parameter.requires_grad else 0
    return {
        "dealt": dealt,
        "gathered": root + sum(sizes),
        "largest_unit": max(sizes),
        "largest_dealt": max(sum(one.nbytes for one in unit.parameters()) for unit in layers),
        "root": root,
        "root_gradients": root_gradients,
        "unit_gradients": max(trained) * (dtype.itemsize + 4),
    }
