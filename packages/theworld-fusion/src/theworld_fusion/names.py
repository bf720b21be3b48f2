"""Gemma 3's older weight names, where transformers does not translate them."""

from typing import Any

from torch import Tensor, nn

_RENAMED = {
    "language_model.model.": "model.language_model.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


def translate_gemmas_names(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename in place, before ``load_state_dict``.

    Saved files have the older names, and transformers' Trainer, when it resumes, gives them to ``load_state_dict`` as
    they are, and not strictly: of the VLM nothing would be loaded.
    """
    for old, new in _RENAMED.items():
        for name in [name for name in weights if name.startswith(prefix + old)]:
            weights[prefix + new + name.removeprefix(prefix + old)] = weights.pop(name)
