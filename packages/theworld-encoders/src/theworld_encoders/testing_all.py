"""For tests that mix every encoder with everything else: what is listed here takes part in them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from theworld_encoders.testing import (
    make_tiny_cosmos1_folder,
    make_tiny_cosmos_folder,
    make_tiny_dit_folder,
    make_tiny_wan22_folder,
)
from theworld_encoders.testing_vision import make_tiny_dinov3_folder, make_tiny_siglip_folder, make_tiny_vjepa2_folder

TINY_ENCODERS: dict[str, Callable[[Path], Path]] = {
    "cosmos-predict2-dit": make_tiny_dit_folder,
    "cosmos-predict2-vae": make_tiny_cosmos_folder,
    "cosmos1-tokenizer": make_tiny_cosmos1_folder,
    "dinov3": make_tiny_dinov3_folder,
    "gemma3-siglip": make_tiny_siglip_folder,
    "siglip": make_tiny_siglip_folder,
    "siglip2": make_tiny_siglip_folder,
    "vjepa2": make_tiny_vjepa2_folder,
    "wan21-dit": partial(make_tiny_dit_folder, class_name="WanTransformer3DModel"),
    "wan22-vae": make_tiny_wan22_folder,
}
"""Every encoder of ours, and what writes a checkpoint of its layout at toy size, for frames of ``TINY_FRAME_SIZE``."""
