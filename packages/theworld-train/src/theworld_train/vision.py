"""What Gemma 3's vision tower makes of a picture, to be kept: pooled, before the projector that a recipe may train.

Letters: ``n`` the picture and its crops of pan and scan, ``h w`` pixels, ``p`` image tokens, ``c`` the tower's width.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.features import module_key
from theworld_encoders.preprocess import Item, is_clip
from theworld_encoders.source import Source
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor

_VERSION = 1
"""Raise it when the same picture and tower come to give other features: what was cached then counts no more."""
_TOWER = ("image_size", "patch_size", "num_attention_heads", "hidden_act", "layer_norm_eps")
_PICTURE = (
    "do_convert_rgb", "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean",
    "image_std", "do_pan_and_scan", "pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops",
    "pan_and_scan_min_ratio_to_activate",
)  # fmt: skip
"""Settings that features depend on beside the weights: of the tower, and of the image processor."""


def vision_key(model: TheWorldForConditionalGeneration, processor: TheWorldProcessor) -> str:
    """A name, and a digest of all that the features of a picture depend on, as ``encoder_key`` has it of an encoder.

    Raises:
        EncoderError: the tower is being trained, or its weights are not in memory.
    """
    tower: Any = model.model.vision_tower
    images: Any = processor.image_processor  # pyright: ignore[reportAttributeAccessIssue]
    given: Any = processor.images_kwargs  # which go before the image processor's own
    return module_key(
        "gemma3-vision",
        tower,
        [_VERSION, model.config.mm_tokens_per_image, type(images).__name__],
        {name: getattr(tower.config, name) for name in _TOWER},
        {name: _plain(given.get(name, getattr(images, name, None))) for name in _PICTURE},
    )


def seen(source: Source) -> Source:
    """What of a source the tower sees: of a clip in memory the last frame. A clip's file is known as a whole."""
    return source[-1] if isinstance(source, list | tuple) else source


def picture_pixels(processor: TheWorldProcessor, item: Item) -> Float[Tensor, "n 3 h w"]:
    """A picture, or a clip's last frame, as Gemma 3's processor makes it."""
    process: Any = processor  # its keywords are annotated as transformers' own, which leave some out
    return process(images=[[seen(item) if is_clip(item) else item]], world="off", return_tensors="pt")["pixel_values"]


@torch.no_grad()
def picture_features(
    model: TheWorldForConditionalGeneration, pixels: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n p c"]:
    """The pooled output of the tower, on the CPU; one picture at a time, as in a batch of one."""
    tower: Any = model.model.vision_tower
    hidden = tower(pixel_values=pixels.to(next(tower.parameters()).device), return_dict=True).last_hidden_state
    projector: Any = model.model.multi_modal_projector
    return projector.pool(hidden).contiguous().cpu()


def _plain(value: Any) -> Any:
    """Sizes are objects of transformers' own, numbers of filters an enumeration."""
    return dict(value) if hasattr(value, "keys") else int(value) if isinstance(value, int) else value
