"""diffusers' Wan encoder with faster layers, equal within float error: same modules, names and weights.

A lone frame sees only zeros before it, so that its causal 3-D convolutions are 2-D ones. A clip goes through in one
pass; diffusers takes four frames at a time. Nothing is folded ahead: the 2-D weight is a view of the 3-D one, taken
inside the layer's own ``forward``, where hooks that bring weights from elsewhere have brought it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanEncoder3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Caches = list[Any]
"""What each layer with a view of the past keeps of one chunk for the next."""
_TINY = torch.finfo(torch.float32).tiny
"""What a norm is at least: zero stays zero."""


class CausalConv3d(WanCausalConv3d):
    """Sees ``cache_x``, or zeros, before the first frame."""

    _padding: tuple[int, ...]
    stride: tuple[int, ...]

    def forward(
        self, x: Float[Tensor, "m c t h w"], cache_x: Float[Tensor, "m c past h w"] | None = None
    ) -> Float[Tensor, "m d tt hh ww"]:
        width, height, time = self._padding[0], self._padding[2], self._padding[4]
        if self.weight.shape[2:].numel() == 1:
            return _pointwise(x, self.weight, self.bias)
        if cache_x is None and x.shape[2] == 1:
            last_tap = self.weight[:, :, -1]
            return F.conv2d(x[:, :, 0], last_tap, self.bias, self.stride[1:], (height, width)).unsqueeze(2)
        if cache_x is not None:
            x, time = torch.cat([cache_x, x], dim=2), time - cache_x.shape[2]
        if time > 0:
            x = F.pad(x, (0, 0, 0, 0, time, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, height, width))


class Pointwise(nn.Conv2d):
    """One pixel at a time."""

    def forward(self, input: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d h w"]:
        return _pointwise(input, self.weight, self.bias)


def _pointwise(
    x: Float[Tensor, "m c ..."], weight: Float[Tensor, "d c ..."], bias: Float[Tensor, " d"] | None
) -> Float[Tensor, "m d ..."]:
    """A convolution whose kernel is one pixel, as the product that it is: channels come last and stay there."""
    channels_last = x.movedim(1, -1)
    rows = channels_last.reshape(-1, x.shape[1])  # else torch may make it a batch of small products
    return F.linear(rows, weight.flatten(1), bias).view(*channels_last.shape[:-1], -1).movedim(-1, 1)


class RmsNorm(WanRMS_norm):
    """One kernel where there is one; without gradients on a CPU, fewer passes, in float32 inside."""

    def forward(self, x: Float[Tensor, "m c ..."]) -> Float[Tensor, "m c ..."]:
        if x.is_cpu and not torch.is_grad_enabled():  # where the one kernel is made of passes over new tensors
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True).div_(self.scale).clamp_min_(_TINY)
            wide = wide / norm if wide.dtype == x.dtype else wide.div_(norm)
            return wide.mul_(self.gamma).to(x.dtype)
        channels_last = x.movedim(1, -1)
        scale = self.gamma.flatten().to(x.dtype)  # in training under autocast, weights are float32 and x is not
        return F.rms_norm(channels_last, channels_last.shape[-1:], scale, _TINY).movedim(-1, 1)


class ResidualBlock(WanResidualBlock):
    """Adds its branches in place."""

    def forward(
        self, x: Float[Tensor, "m c t h w"], feat_cache: Caches | None = None, feat_idx: list[int] | None = None
    ) -> Float[Tensor, "m d t h w"]:
        if feat_cache is not None:
            return super().forward(x, feat_cache, feat_idx)
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        h = self.norm2(h)  # by this name again, so that what it was is not kept
        return self.conv2(self.dropout(self.nonlinearity(h))).add_(self.conv_shortcut(x))


class Attention(WanAttentionBlock):
    """Without copies: channels are last from end to end."""

    def forward(self, x: Float[Tensor, "m c t h w"]) -> Float[Tensor, "m c t h w"]:
        frames = _frames(x)
        qkv = self.to_qkv(self.norm(frames))
        q, k, v = rearrange(qkv, "n (three c) h w -> three n 1 (h w) c", three=3)
        seen = F.scaled_dot_product_attention(q, k, v)
        seen = self.proj(rearrange(seen, "n 1 (h w) c -> n c h w", h=x.shape[3]))
        return _clip(seen, len(x)) + x


class Downsample(WanResample):
    """Halves the sides and, if so built, the frames; the clip's first frame has a feature of its own."""

    def forward(
        self, x: Float[Tensor, "m c t h w"], feat_cache: Caches | None = None, feat_idx: list[int] | None = None
    ) -> Float[Tensor, "m c tt hh ww"]:
        # diffusers pads below and to the right, in a copy. Padded all round by the convolution itself, it starts two
        # pixels early: its first row and column of results are not asked for.
        x = _clip(self.resample(_frames(x))[..., 1:, 1:], len(x))
        if self.mode != "downsample3d":
            return x
        past = None
        if feat_cache is not None and feat_idx is not None:
            past, feat_cache[feat_idx[0]] = feat_cache[feat_idx[0]], x[:, :, -1:]
            feat_idx[0] += 1
        if past is not None:
            return self.time_conv(torch.cat([past, x], dim=2))
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2) if x.shape[2] > 1 else x


def _frames(x: Float[Tensor, "m c t h w"]) -> Float[Tensor, "n c h w"]:
    """Each frame an item. Of a lone one in a lone item, a reshape leaves strides that hide that channels are last."""
    return x[:, :, 0] if x.shape[2] == 1 else rearrange(x, "m c t h w -> (m t) c h w")


def _clip(frames: Float[Tensor, "n c h w"], items: int) -> Float[Tensor, "m c t h w"]:
    """The way back."""
    return frames.unsqueeze(2) if len(frames) == items else rearrange(frames, "(m t) c h w -> m c t h w", m=items)


_FASTER: dict[type, type] = {
    WanAttentionBlock: Attention,
    WanCausalConv3d: CausalConv3d,
    WanRMS_norm: RmsNorm,
    WanResample: Downsample,
    WanResidualBlock: ResidualBlock,
}


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
        if isinstance(module, nn.SiLU):
            module.inplace = True  # it always follows a norm, whose result nobody else has
        elif isinstance(module, Downsample):
            convolution = module.get_submodule("resample.1")
            module.resample, convolution.padding = nn.Sequential(nn.Identity(), convolution), (2, 2)  # pyright: ignore
        elif isinstance(module, Attention):
            module.to_qkv.__class__ = module.proj.__class__ = Pointwise
    return encoder


def num_caches(encoder: WanEncoder3d) -> int:
    """How many layers of ``encoder`` look back, at most."""
    return sum(isinstance(module, WanCausalConv3d) for module in encoder.modules())
