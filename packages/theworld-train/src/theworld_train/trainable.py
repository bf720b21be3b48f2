"""What is trained: declared by a recipe's stage, applied to the model, and held against what the model then says.

Trained weights are float32, whatever the rest is: AdamW's steps are smaller than what bfloat16 can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from theworld_encoders import Encoder
from theworld_fusion import TheWorldForConditionalGeneration
from theworld_fusion.projector import WorldBoundaries, WorldProjector
from theworld_train.errors import UsageError
from theworld_train.lora import attach_lora, is_lora
from theworld_train.parts import by_part
from theworld_train.recipe import PartName, PartSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRow:
    """One part of the model, as it is trained."""

    part: PartName
    parameters: int
    trainable: int
    lr: float | None
    """``None`` where nothing is trained."""
    lora_rank: int | None
    dtype: str
    """Of its weights; two where they differ."""


def apply_parts(
    model: TheWorldForConditionalGeneration, parts: Mapping[PartName, PartSettings], lr: float
) -> list[PartRow]:
    """Make exactly the declared parts trainable, in float32, and freeze the rest, which keeps its dtype.

    What an earlier stage trained stays float32 when it is frozen: nothing that was learned is rounded. Applying a
    run's stages one after the other therefore gives the same modules in every process that does so.

    Args:
        lr: of parts that have none of their own.

    Raises:
        UsageError: a part has no weights here, a LoRA cannot be put on it, or what is trainable is not what was
            declared.
    """
    present = by_part(model)
    for part, settings in parts.items():
        if not present[part]:
            raise UsageError(f"the model has no {part} with weights to train. Leave it out of parts.")
        if settings.lora is not None:
            attach_lora(model, part, settings.lora)
        elif any(map(is_lora, present[part])):
            raise UsageError(f"{part} has LoRA layers, so parts.{part} has to have lora too. Give their settings.")
    model.requires_grad_(False)
    declared = set[str]()
    for part, parameters in by_part(model).items():
        if (settings := parts.get(part)) is None:
            continue
        for name, parameter in parameters.items():
            if settings.lora is None or is_lora(name):
                declared.add(name)
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, Encoder):
            module.train(model.training)  # a frozen one stays in eval mode
    check_trainable(model, declared)
    return _rows(model, parts, lr)


def check_trainable(model: nn.Module, declared: set[str]) -> None:
    """Raises:
    UsageError: other parameters than the ``declared`` ones require gradients, or one of these is not float32.
    """
    actual = trainable_names(model)
    if differing := sorted(actual ^ declared):
        what = "trainable but not declared" if differing[0] in actual else "declared but frozen"
        raise UsageError(
            f"{len(differing)} parameters are not as declared: {', '.join(differing[:3])} ({what}). "
            "Change nothing between apply_parts and training."
        )
    if narrow := [name for name, one in model.named_parameters() if name in declared and one.dtype != torch.float32]:
        raise UsageError(f"{len(narrow)} trainable parameters are not float32: {', '.join(narrow[:3])}. Apply anew.")


def trainable_names(model: nn.Module) -> set[str]:
    """Names of the parameters that require gradients; of all stages together they are what an adapter has to hold."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_groups(model: nn.Module, rows: Sequence[PartRow], weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters for an optimiser: each part at its own learning rate.

    Weight decay is for matrices of layers. Norms, biases and embeddings have none: their size means something.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and, for who reads them, ``part``.
    """
    rates, undecayed = {row.part: row.lr for row in rows}, _undecayed(model)
    groups: list[dict[str, Any]] = []
    for part, parameters in by_part(model).items():
        trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
        for decay in (weight_decay, 0.0):
            members = [one for one in trained if (weight_decay if id(one) not in undecayed else 0.0) == decay]
            if members:
                groups.append({"params": members, "lr": rates[part], "weight_decay": decay, "part": part})
            if not weight_decay:
                break
    return groups


def table(rows: Sequence[PartRow]) -> str:
    """The rows for people, and their sum."""
    total, trained = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    cells = [("part", "parameters", "trainable", "learning rate", "dtype")]
    for row in rows:
        how = "" if row.lora_rank is None else f" (LoRA, rank {row.lora_rank})"
        rate = "frozen" if row.lr is None else f"{row.lr:g}"
        cells.append((row.part, f"{row.parameters:,}", f"{row.trainable:,}", rate, row.dtype + how))
    cells.append(("all", f"{total:,}", f"{trained:,}", "", f"{trained / total:.2%} trainable"))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        "  ".join((line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in (1, 2, 3)), line[4])) for line in cells
    )


def _rows(model: nn.Module, parts: Mapping[PartName, PartSettings], lr: float) -> list[PartRow]:
    rows = []
    for part, parameters in by_part(model).items():
        settings = parts.get(part)
        dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in parameters.values()})
        rows.append(
            PartRow(
                part=part,
                parameters=sum(one.numel() for one in parameters.values()),
                trainable=sum(one.numel() for one in parameters.values() if one.requires_grad),
                lr=None if settings is None else settings.lr or lr,
                lora_rank=None if settings is None or settings.lora is None else settings.lora.rank,
                dtype=", ".join(dtypes) or "-",
            )
        )
    return rows


def _undecayed(model: nn.Module) -> set[int]:
    """Identities of parameters that are vectors, whatever their shape, or embeddings, wherever they are kept."""
    found = {id(one) for one in model.parameters() if one.numel() == max((1, *one.shape))}
    for module in model.modules():
        if isinstance(module, nn.Embedding | WorldBoundaries | WorldProjector | Encoder):
            found |= {id(one) for one in module.parameters(recurse=False)}
    return found
