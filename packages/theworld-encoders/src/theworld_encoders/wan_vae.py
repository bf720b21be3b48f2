"""The encoder half of diffusers' ``AutoencoderKLWan``: the VAE of Wan 2.1 and, unchanged, of Cosmos-Predict2.

Latents are the posterior's mode, standardised with the configuration's means and deviations, as
``Cosmos2VideoToWorldPipeline`` does it.
"""

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec
from theworld_encoders.vae import VaeEncoder

CHUNK_PIXELS = 2**20
"""Pixels of a batch that are encoded at once: 16 frames of 256 x 256. Longer clips go in chunks with the same result,
so that memory stays bounded; a chunk is never shorter than one latent frame, and the first has one frame more."""


class WanVae(VaeEncoder):
    """Image or clip to latents at 1/4 of the frame rate; the first frame has a latent of its own."""

    autoencoder = "AutoencoderKLWan"
    patch_size: ClassVar[int | None] = None
    """Pixels along a side that become channels before the first layer."""

    @classmethod
    def spec_for(cls, config: dict[str, Any], frame_size: int) -> EncoderSpec:
        return replace(
            cls.published,
            width=config["z_dim"],
            frame_size=frame_size,
            spatial_stride=2 ** (len(config["dim_mult"]) - 1) * (config["patch_size"] or 1),
            temporal_stride=2 ** sum(config["temperal_downsample"]),
        )

    def build(self) -> None:
        from theworld_encoders.wan_layers import CausalConv3d, num_caches, wan_encoder

        channels = self.config["z_dim"] * 2  # means, then logarithms of variances
        self.encoder: nn.Module = wan_encoder(self.config)
        self.quant_conv: nn.Module = CausalConv3d(channels, channels, 1)
        self._num_caches = num_caches(self.encoder)

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        patch, stride = self.config["patch_size"] or 1, self.spec.temporal_stride
        items, frames, _, height, width = pixels.shape
        length = max(stride, CHUNK_PIXELS // (items * height * width) // stride * stride)
        video = rearrange(pixels, "m t c (r p) (s q) -> m (c q p) t r s", p=patch, q=patch)
        video = video.contiguous(memory_format=torch.channels_last_3d)  # which convolutions like best
        chunks = video.tensor_split(tuple(range(1 + length, frames, length)), dim=2)
        # The causal caches live in this call, not on the module as in diffusers: so threads may share an encoder.
        caches = _Shared([None] * self._num_caches) if len(chunks) > 1 else None
        hidden = [self.encoder(chunk, feat_cache=caches, feat_idx=_Shared([0])) for chunk in chunks]
        mode, _ = self.quant_conv(torch.cat(hidden, dim=2)).chunk(2, dim=1)
        return self.standardise(mode)

    @classmethod
    def _complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        full = super()._complete({key: value for key, value in config.items() if key not in _DROPPED})
        if full["patch_size"] != cls.patch_size:
            raise EncoderError(
                f"{cls.published.name} cannot use patch_size {full['patch_size']}, only {cls.patch_size}. "
                "Take cosmos-predict2-vae for a Wan 2.1 VAE, wan22-vae for a Wan 2.2 VAE."
            )
        return full


class CosmosPredict2Vae(WanVae):
    """Image or clip to 16-channel latents at 1/8 of the side and 1/4 of the frame rate."""

    published = EncoderSpec(
        name="cosmos-predict2-vae",
        kind="world",
        width=16,
        frame_size=224,
        spatial_stride=8,
        temporal_stride=4,
        pixel_mean=0.5,
        pixel_std=0.5,
        repo_id="nvidia/Cosmos-Predict2-2B-Video2World",
        revision="main",
        subfolder="vae",
        licence="NVIDIA Open Model License",
        gated=True,
    )


_DROPPED = {"clip_output"}
"""In Wan 2.2's published configuration, about the decoder; diffusers knows no such setting and passes over it."""


class _Shared(list[Any]):
    """A list that layers write into. accelerate's hooks copy lists on their way, but leave alone what has ``to``."""

    def to(self, *_: Any, **__: Any) -> Self:
        return self
