"""For tests: folders of the published layout of transformers' encoders, at toy size, with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from theworld_encoders.testing import TINY_FRAME_SIZE

_TINY = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 8}

TINY_SIGLIP: dict[str, Any] = {**_TINY, "image_size": TINY_FRAME_SIZE + 2, "intermediate_size": 64}
"""As the published tower's 384 pixels, these are not a whole number of patches."""

TINY_DINOV3: dict[str, Any] = {
    **_TINY,
    "image_size": TINY_FRAME_SIZE,
    "intermediate_size": 64,
    "num_register_tokens": 4,
}

TINY_VJEPA2: dict[str, Any] = {
    **_TINY,
    "crop_size": TINY_FRAME_SIZE,
    "initializer_range": 0.2,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
}


def make_tiny_siglip_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """Write SigLIP or SigLIP 2, text tower included: ``config.json`` and ``model.safetensors``."""
    from transformers.models.siglip.modeling_siglip import SiglipConfig, SiglipModel

    text = {**_TINY, "bos_token_id": 1, "eos_token_id": 2, "intermediate_size": 64, "vocab_size": 50}
    text.pop("patch_size")
    return _write(folder, lambda: SiglipModel(SiglipConfig(text_config=text, vision_config=TINY_SIGLIP)), seed)


def make_tiny_dinov3_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """Write DINOv3: ``config.json`` and ``model.safetensors``, whose layers stand at the top as published."""
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTConfig, DINOv3ViTModel

    return _write(folder, lambda: DINOv3ViTModel(DINOv3ViTConfig(**TINY_DINOV3)), seed)


def make_tiny_vjepa2_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """Write V-JEPA 2, predictor included: ``config.json`` and ``model.safetensors``."""
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Config, VJEPA2Model

    return _write(folder, lambda: VJEPA2Model(VJEPA2Config(**TINY_VJEPA2)), seed)


def _write(folder: str | Path, build: Callable[[], Any], seed: int) -> Path:
    """Weights are drawn with ``seed``; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build().save_pretrained(folder)
    return Path(folder)
