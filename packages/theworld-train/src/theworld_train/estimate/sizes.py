"""A recipe's model as a configuration alone: from the published sizes, a folder or the hub; no weights are read."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import Gemma3Config

from theworld_encoders.registry import encoder_class
from theworld_fusion import TheWorldConfig, WorldEncoderConfig
from theworld_fusion.checkpoint import read_config
from theworld_train.recipe import ModelSettings
from theworld_train.recipe_checks import TINY

_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
_TEXT = {"vocab_size": 262_208, "sliding_window": 1024, "rope_theta": 1_000_000.0}

GEMMA3: dict[str, dict[str, int]] = {
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
    },
    "12b": {
        "hidden_size": 3840,
        "intermediate_size": 15_360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
    },
    "27b": {
        "hidden_size": 5376,
        "intermediate_size": 21_504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
    },
}
"""Language models of the published multimodal checkpoints (Gemma 3 Technical Report, arXiv 2503.19786, and their
``config.json``); all share one SigLIP tower and vocabulary."""


def gemma3(size: str) -> Gemma3Config:
    """The configuration of a published multimodal Gemma 3: ``4b``, ``12b`` or ``27b``."""
    config: Any = Gemma3Config
    return config(text_config={**_TEXT, **GEMMA3[size]}, vision_config=_VISION, mm_tokens_per_image=256)


def config_of(model: ModelSettings) -> TheWorldConfig:
    """The configuration that ``assemble`` would make of a recipe's ``model`` section.

    The published Gemma 3 (``google/gemma-3-4b-it`` and its siblings) are known here; others are looked up.

    Raises:
        CheckpointError, EncoderError: there is no such checkpoint.
    """
    if model.vlm == TINY:
        from theworld_fusion.testing import TINY_WORLD, make_tiny_checkpoint

        with tempfile.TemporaryDirectory() as scratch:
            vlm, world = make_tiny_checkpoint(scratch)
            slots = {name: TINY_WORLD[name] for name in ("world_tokens_per_item", "world_patch")}
            size = {"vlm": str(vlm), "world": str(world), "frame_size": TINY_WORLD["frame_size"]}
            return config_of(model.model_copy(update={**size, "config": slots | model.config}))
    vlm_config, encoder_config = _vlm_config(model), _encoder_config(model)
    return TheWorldConfig(
        **{
            **{
                name: value
                for name, value in vlm_config.to_dict().items()
                if name not in ("model_type", "architectures")
            },
            "world_config": WorldEncoderConfig(
                encoder=model.encoder, encoder_config=encoder_config, frame_size=model.frame_size
            ),
            **model.config,
        }
    )


def _vlm_config(model: ModelSettings) -> Gemma3Config:
    size = model.vlm.removeprefix("google/gemma-3-").removesuffix("-it").removesuffix("-pt")
    if size in GEMMA3 and model.vlm.startswith("google/") and not Path(model.vlm).exists():
        return gemma3(size)
    found = read_config(model.vlm, "gemma3", "Give a multimodal Gemma 3 checkpoint.", model.vlm_revision)
    return Gemma3Config.from_dict(found)


def _encoder_config(model: ModelSettings) -> dict[str, Any]:
    kind = encoder_class(model.encoder)
    if model.world is None:
        return dict(model.encoder_settings)
    return kind.config_of(model.world, revision=model.world_revision, **model.encoder_settings)
