"""diffusers' Wan encoder with faster layers, equal within float error: same modules, names and weights.

A lone frame sees only zeros before it, so that its causal 3-D convolutions are 2-D ones. A clip goes through in one
pass; diffusers takes four frames at a time. Nothing is folded ahead: the 2-D weight is a view of the 3-D one, taken
inside the layer's own ``forward``, where hooks that bring weights from elsewhere have brought it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanEncoder3d, WanResample, WanRMS_norm
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Caches = list[Any]
"""What each layer with a view of the past keeps of one chunk for the next."""


class CausalConv3d(WanCausalConv3d):
    """Sees ``cache_x``, or zeros, before the first frame."""

    _padding: tuple[int, ...]
    stride: tuple[int, ...]

    def forward(
        self, x: Float[Tensor, "m c t h w"], cache_x: Float[Tensor, "m c past h w"] | None = None
    ) -> Float[Tensor, "m d tt hh ww"]:
        width, height, time = self._padding[0], self._padding[2], self._padding[4]
        if cache_x is None and x.shape[2] == 1:
            last_tap = self.weight[:, :, -1]
            return F.conv2d(x[:, :, 0], last_tap, self.bias, self.stride[1:], (height, width)).unsqueeze(2)
        if cache_x is not None:
            x, time = torch.cat([cache_x, x], dim=2), time - cache_x.shape[2]
        if time > 0:
            x = F.pad(x, (0, 0, 0, 0, time, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, height, width))


class RmsNorm(WanRMS_norm):
    """One kernel where there is one, and no detour over float32 tensors."""

    def forward(self, x: Float[Tensor, "m c ..."]) -> Float[Tensor, "m c ..."]:
        channels_last = x.movedim(1, -1)
        eps = torch.finfo(torch.float32).tiny  # zero stays zero
        scale = self.gamma.flatten().to(x.dtype)  # in training under autocast, weights are float32 and x is not
        return F.rms_norm(channels_last, channels_last.shape[-1:], scale, eps).movedim(-1, 1)


class Downsample(WanResample):
    """Halves the sides and, if so built, the frames; the clip's first frame has a feature of its own."""

    def forward(
        self, x: Float[Tensor, "m c t h w"], feat_cache: Caches | None = None, feat_idx: list[int] | None = None
    ) -> Float[Tensor, "m c tt hh ww"]:
        frames = self.resample(rearrange(x, "m c t h w -> (m t) c h w"))
        x = rearrange(frames, "(m t) c h w -> m c t h w", m=x.shape[0])
        if self.mode != "downsample3d":
            return x
        past = None
        if feat_cache is not None and feat_idx is not None:
            past, feat_cache[feat_idx[0]] = feat_cache[feat_idx[0]], x[:, :, -1:]
            feat_idx[0] += 1
        if past is not None:
            return self.time_conv(torch.cat([past, x], dim=2))
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2) if x.shape[2] > 1 else x


_FASTER: dict[type, type] = {WanCausalConv3d: CausalConv3d, WanRMS_norm: RmsNorm, WanResample: Downsample}


def wan_encoder(config: dict[str, Any]) -> WanEncoder3d:
    """The encoder of ``AutoencoderKLWan`` with that configuration, random weights."""
    encoder = WanEncoder3d(
        in_channels=config["in_channels"],
        dim=config["base_dim"],
        z_dim=config["z_dim"] * 2,
        dim_mult=config["dim_mult"],
        num_res_blocks=config["num_res_blocks"],
        attn_scales=config["attn_scales"],
        temperal_downsample=config["temperal_downsample"],
        dropout=config["dropout"],
        is_residual=config["is_residual"],
    )
    for module in encoder.modules():
        module.__class__ = _FASTER.get(type(module), type(module))  # what it holds stays; how it computes changes
    return encoder


def num_caches(encoder: WanEncoder3d) -> int:
    """How many layers of ``encoder`` look back, at most."""
    return sum(isinstance(module, WanCausalConv3d) for module in encoder.modules())
