"""Wan 2.1's text-to-video transformer as a feature encoder: flow matching, on the VAE that Cosmos-Predict2 shares."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.diffusion import build_transformer
from theworld_encoders.dit import DiffusionEncoder
from theworld_encoders.spec import EncoderSpec

TRAINING_STEPS = 1000
"""Timesteps per unit of flow time, as ``WanPipeline``'s scheduler counts them."""


class Wan21Dit(DiffusionEncoder):
    """Hidden states of block 20 of 30, 1,536 wide, at 1/16 of the side and 1/4 of the frame rate."""

    published = EncoderSpec(
        name="wan21-dit",
        kind="world",
        width=1536,
        frame_size=448,
        spatial_stride=16,
        temporal_stride=4,
        repo_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        revision="0fad780a534b6463e45facd96134c9f345acfa5b",
        subfolder="transformer",
        licence="Apache-2.0",
        gated=False,
    )
    class_name = "WanTransformer3DModel"
    defaults = {"num_layers": 40, "in_channels": 16}
    architecture = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}

    @classmethod
    def build(cls, architecture: dict[str, Any], block: int) -> Any:
        transformer = build_transformer(cls.class_name, architecture, num_layers=block)
        # The head is not used. Of ``rope`` only buffers are: made anew in each call, no dtype or device can spoil them.
        del transformer.norm_out, transformer.proj_out, transformer.scale_shift_table, transformer.rope
        return transformer

    @classmethod
    def text_width(cls, transformer: Any) -> int:
        return transformer.config.text_dim

    def hidden(self, latents: Float[Tensor, "m z t y x"], noise: Float[Tensor, "z t y x"]) -> Float[Tensor, "m n c"]:
        level, transformer, items = self.config["noise_level"], self.transformer, latents.shape[0]
        noisy = ((1 - level) * latents + level * noise).to(transformer.dtype)
        rotary = [part.to(noisy.device) for part in _rope(transformer)(noisy)]
        timestep = torch.full((items,), level * TRAINING_STEPS, device=noisy.device)
        _, modulation, prompt, _ = transformer.condition_embedder(timestep, self.prompt(items))
        states = transformer.patch_embedding(noisy).flatten(2).transpose(1, 2)
        for block in transformer.blocks:
            states = block(states, prompt, modulation.unflatten(1, (6, -1)), rotary)
        return states


def _rope(transformer: Any) -> Any:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    config = transformer.config
    with torch.device("cpu"):
        return WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
