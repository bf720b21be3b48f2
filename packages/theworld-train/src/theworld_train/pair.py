"""The model and processor that a recipe names."""

from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY


def make_pair(recipe: Recipe, run: Path) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """Assemble the two checkpoints; what is new starts from the recipe's seed.

    Args:
        run: the run's folder, which has the toy pair where the recipe asks for one.

    Raises:
        CheckpointError: a checkpoint is not there, or not what it should be.
    """
    settings = recipe.model
    arguments: dict[str, Any] = {
        "encoder": settings.encoder,
        "frame_size": settings.frame_size,
        "encoder_settings": settings.encoder_settings,
        "num_frames": settings.num_frames,
        "revision": settings.vlm_revision,
        "world_revision": settings.world_revision,
    }
    vlm, world = settings.vlm, settings.world
    if vlm == TINY:
        from theworld_fusion.testing import TINY_WORLD

        vlm, world = str(run / TINY / "vlm"), str(run / TINY / "world")
        asked = {name: value for name, value in arguments.items() if name in settings.model_fields_set}
        arguments |= {**TINY_WORLD, **asked}
    set_seed(recipe.seed)
    return assemble(vlm, world, dtype=getattr(torch, settings.dtype), **{**arguments, **settings.config})


def make_tiny_pair(run: Path, seed: int) -> None:
    """Put the toy pair into the run's folder, where it is not there yet."""
    from theworld_fusion.testing import make_tiny_checkpoint

    if not (run / TINY).is_dir():
        make_tiny_checkpoint(run / f".{TINY}", seed=seed)
        (run / f".{TINY}").rename(run / TINY)
