"""The encoder half of diffusers' ``AutoencoderKLCosmos``: the continuous video tokenizer of Cosmos 1.

It has no posterior, so that its latents are what its encoder gives. Their means and deviations are by channel and by
latent frame, as ``CosmosVideoToWorldPipeline`` applies them; its last factor, the noise scheduler's ``sigma_data``, is
no part of the latents and is left out.
"""

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec
from theworld_encoders.vae import VaeEncoder


class Cosmos1Tokenizer(VaeEncoder):
    """Image or clip to 16-channel latents at 1/8 of the side and 1/8 of the frame rate."""

    autoencoder = "AutoencoderKLCosmos"

    published = EncoderSpec(
        name="cosmos1-tokenizer",
        kind="world",
        width=16,
        frame_size=224,
        spatial_stride=8,
        temporal_stride=8,
        pixel_mean=0.5,
        pixel_std=0.5,
        repo_id="nvidia/Cosmos-1.0-Tokenizer-CV8x8x8",
        revision="main",
        subfolder="vae",
        licence="NVIDIA Open Model License",
        gated=True,
    )

    @classmethod
    def spec_for(cls, config: dict[str, Any], frame_size: int) -> EncoderSpec:
        return replace(
            cls.published,
            width=config["latent_channels"],
            frame_size=frame_size,
            spatial_stride=config["spatial_compression_ratio"],
            temporal_stride=config["temporal_compression_ratio"],
        )

    def build(self) -> None:
        from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosCausalConv3d

        from theworld_encoders.cosmos1_layers import cosmos_encoder

        channels = self.config["latent_channels"]
        self.encoder = cosmos_encoder(self.config)
        patches = self.encoder.patch_embed
        patches.wavelets = patches.wavelets.to(torch.get_default_device())  # made from a constant on the CPU
        self.quant_conv = CosmosCausalConv3d(channels, channels, kernel_size=1, padding=0)

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        most = self.spec.most_frames(self.latents_mean.shape[0])
        if pixels.shape[1] > most:
            raise EncoderError(
                f"{self.spec.name} has latent means for {most} frames, and the clip has {pixels.shape[1]}. "
                f"Give at most {most}."
            )
        return self.standardise(self.quant_conv(self.encoder(rearrange(pixels, "m t c h w -> m c t h w"))))

    def reset_parameters(self) -> None:
        from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosPatchEmbed3d

        super().reset_parameters()
        fresh = CosmosPatchEmbed3d(self.config["patch_size"], self.config["patch_type"])
        with torch.no_grad():
            for buffer, value in zip(self.encoder.patch_embed.buffers(), fresh.buffers(), strict=True):
                buffer.copy_(value)
