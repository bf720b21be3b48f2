"""diffusers' Cosmos encoder with means where it pools in 3-D, which torch cannot do in bfloat16 on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosDownsample3d, CosmosEncoder3d
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor


class Downsample(CosmosDownsample3d):
    """Halves the sides, the frames or both: a convolution beside a mean."""

    def forward(self, hidden_states: Float[Tensor, "m c t h w"]) -> Float[Tensor, "m c tt hh ww"]:
        x = hidden_states
        if self.spatial_downsample:
            padded = F.pad(x, (0, 1, 0, 1))
            means = F.avg_pool2d(rearrange(x, "m c t h w -> (m t) c h w"), 2)
            x = self.conv1(padded) + rearrange(means, "(m t) c h w -> m c t h w", m=x.shape[0])
        if self.temporal_downsample:
            x = torch.cat([x[:, :, :1], x], dim=2)  # the first frame twice, so that it makes a pair of its own
            x = self.conv2(x) + reduce(x, "m c (t two) h w -> m c t h w", "mean", two=2)
        return self.conv3(x)


def cosmos_encoder(config: dict[str, Any]) -> CosmosEncoder3d:
    """The encoder of ``AutoencoderKLCosmos`` with that configuration, random weights."""
    encoder = CosmosEncoder3d(
        in_channels=config["in_channels"],
        out_channels=config["latent_channels"],
        block_out_channels=config["encoder_block_out_channels"],
        num_resnet_blocks=config["num_layers"],
        attention_resolutions=config["attention_resolutions"],
        resolution=config["resolution"],
        patch_size=config["patch_size"],
        patch_type=config["patch_type"],
        spatial_compression_ratio=config["spatial_compression_ratio"],
        temporal_compression_ratio=config["temporal_compression_ratio"],
    )
    for module in encoder.modules():
        if type(module) is CosmosDownsample3d:
            module.__class__ = Downsample  # what it holds stays; how it computes changes
    return encoder
