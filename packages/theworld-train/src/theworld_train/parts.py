"""The five parts of the model that a recipe trains or freezes: every parameter belongs to exactly one."""

from typing import get_args

from torch import Tensor, nn

from theworld_fusion.assemble import NEW_MODULES
from theworld_train.errors import UsageError
from theworld_train.recipe import PartName

PARTS: tuple[PartName, ...] = get_args(PartName)

_HOMES: dict[PartName, tuple[str, ...]] = {
    "world_projector": NEW_MODULES,  # stands first: registers lie inside the encoder
    "vision_tower": ("model.vision_tower.",),
    "image_projector": ("model.multi_modal_projector.",),
    "language_model": ("model.language_model.", "lm_head."),
    "world_encoder": ("model.world_encoder.",),
}
"""Where the names of each part's parameters begin."""


def part_of(name: str) -> PartName:
    """The part that a parameter or module of ``TheWorldForConditionalGeneration`` belongs to, by its name.

    Raises:
        UsageError: it belongs to none, so the model is of another kind.
    """
    for part, homes in _HOMES.items():
        if name.startswith(homes):
            return part
    raise UsageError(f"{name} belongs to no part. Known parts: {', '.join(PARTS)}. Train a model of theworld_fusion.")


def by_part(model: nn.Module) -> dict[PartName, dict[str, Tensor]]:
    """Every parameter under its part and name, parts in the recipe's order; a tied one is there once.

    Raises:
        UsageError: a parameter belongs to no part.
    """
    parts: dict[PartName, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, parameter in model.named_parameters():
        parts[part_of(name)][name] = parameter
    return parts
