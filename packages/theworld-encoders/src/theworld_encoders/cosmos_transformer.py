"""Cosmos-Predict2's transformer: how it is built without torchvision, and what goes in, as its pipeline has it.

``Cosmos2VideoToWorldPipeline`` itself is never imported: it brings a guardrail that switches autograd off. With its
``sigma_data`` of 1, standardised latents go in as they are; noise of scale ``sigma``, times ``c_in``, is flow matching
at time ``sigma / (sigma + 1)``. Its ``fps`` stretches the rotary positions in time.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.diffusion import build_transformer
from theworld_encoders.errors import EncoderError

CLASS_NAME = "CosmosTransformer3DModel"
ARCHITECTURE = {
    "in_channels": 17,
    "num_attention_heads": 16,
    "rope_scale": [1.0, 3.0, 3.0],
    "extra_pos_embed_type": None,
}
"""Of the published 2B Video2World model, where it differs from diffusers' defaults."""

FPS = 16
"""The pipeline's default frame rate."""

SIGMA_CONDITIONING = 1e-4
"""Noise that the pipeline declares for frames that it shows the transformer clean."""


def build_cosmos(architecture: dict[str, Any], num_layers: int) -> Any:
    """The transformer with its first ``num_layers`` blocks.

    It takes the padding mask as its last input channel: to make it itself, it would need torchvision.

    Raises:
        EncoderError: it wants more than latents, masks and a T5 embedding, as those of Cosmos-Predict 2.5 do.
    """
    full = {"in_channels": 16, "concat_padding_mask": True, **architecture}
    for setting in ("use_crossattn_projection", "img_context_dim_in"):
        if full.get(setting):
            raise EncoderError(
                f"this transformer has {setting} {full[setting]}, which Cosmos-Predict2's have not. "
                "Give a Cosmos-Predict2 checkpoint, not 2.5."
            )
    if not full["concat_padding_mask"]:
        raise EncoderError("this transformer takes no padding mask. Give a Cosmos-Predict2 checkpoint.")
    channels = full["in_channels"] + 1
    return build_transformer(
        CLASS_NAME, architecture, num_layers=num_layers, in_channels=channels, concat_padding_mask=False
    )


def cosmos_inputs(
    given: Float[Tensor, "m z g y x"], noisy: Float[Tensor, "m z n y x"], level: float | Float[Tensor, ""]
) -> tuple[Float[Tensor, "m _ t y x"], Float[Tensor, "m 1 t 1 1"]]:
    """The transformer's input and timestep for frames that are given clean, and those at noise ``level`` after them.

    Two masks follow the latents' channels: where frames are given, and where padding is, which is nowhere.
    """
    latents = torch.cat([given, noisy], dim=2)
    indicator = torch.zeros_like(latents[:, :1])
    indicator[:, :, : given.shape[2]] = 1
    timestep = indicator[..., :1, :1] * (SIGMA_CONDITIONING / (SIGMA_CONDITIONING + 1))
    timestep = timestep + (1 - indicator[..., :1, :1]) * level
    return torch.cat([latents, indicator, torch.zeros_like(indicator)], dim=1), timestep
