"""The encoder half of diffusers' ``AutoencoderKLWan``: the VAE of Wan 2.1 and, unchanged, of Cosmos-Predict2.

Latents are the posterior's mode, standardised with the configuration's means and deviations, as
``Cosmos2VideoToWorldPipeline`` does it. The decoder is neither built nor read from disk.
"""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.checkpoint import find_component, load_exactly, read_config, read_tensors
from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec


class CosmosPredict2Vae(Encoder):
    """Image or clip to 16-channel latents at 1/8 of the side and 1/4 of the frame rate."""

    latents_mean: Tensor
    latents_std: Tensor

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

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        wan = _diffusers_wan(self.published.name)
        config = _with_defaults(config, wan.AutoencoderKLWan)
        spec = replace(
            self.published,
            width=config["z_dim"],
            frame_size=frame_size or self.published.frame_size,
            spatial_stride=2 ** (len(config["dim_mult"]) - 1),
            temporal_stride=2 ** sum(config["temperal_downsample"]),
        )
        super().__init__(spec, config)
        self.encoder: nn.Module = wan.WanEncoder3d(
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
        self.quant_conv: nn.Module = wan.WanCausalConv3d(config["z_dim"] * 2, config["z_dim"] * 2, 1)
        self.register_buffer("latents_mean", torch.tensor(config["latents_mean"]), persistent=False)
        self.register_buffer("latents_std", torch.tensor(config["latents_std"]), persistent=False)
        self._num_caches = sum(isinstance(module, wan.WanCausalConv3d) for module in self.encoder.modules())
        self.freeze()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "CosmosPredict2Vae":
        return cls(config, frame_size)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "CosmosPredict2Vae":
        if source is None:
            source, revision = cls.published.repo_id, revision or cls.published.revision
        folder = find_component(source, cls.published.subfolder, revision)
        encoder = cls(read_config(folder, "AutoencoderKLWan"), frame_size)
        load_exactly(encoder, read_tensors(folder, ("encoder.", "quant_conv.")), folder)
        return encoder.to(device=device, dtype=dtype)

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        video = rearrange(pixels, "m t c h w -> m c t h w")
        starts = range(1, video.shape[2], self.spec.temporal_stride)
        chunks = [video[:, :, :1], *(video[:, :, start : start + self.spec.temporal_stride] for start in starts)]
        # The causal caches live in this call, not on the module as in diffusers: so threads may share an encoder.
        caches = _Shared([None] * self._num_caches)
        hidden = torch.cat([self.encoder(chunk, feat_cache=caches, feat_idx=_Shared([0])) for chunk in chunks], dim=2)
        mode = rearrange(self.quant_conv(hidden), "m (two c) t r s -> two m t r s c", two=2)[0]
        return (mode - self.latents_mean.to(mode.dtype)) / self.latents_std.to(mode.dtype)

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.reset_parameters()
            elif "gamma" in dict(module.named_parameters(recurse=False)):
                nn.init.ones_(module.gamma)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.latents_mean.copy_(torch.tensor(self.config["latents_mean"]))
            self.latents_std.copy_(torch.tensor(self.config["latents_std"]))


class _Shared(list[Any]):
    """A list that layers write into. accelerate's hooks copy lists on their way, but leave alone what has ``to``."""

    def to(self, *_: Any, **__: Any) -> Self:
        return self


def _diffusers_wan(name: str) -> Any:
    try:
        from diffusers.models.autoencoders import autoencoder_kl_wan
    except ImportError as error:
        raise EncoderError(f'{name} needs diffusers. Install it: pip install "theworld-encoders[cosmos]"') from error
    return autoencoder_kl_wan


def _with_defaults(config: dict[str, Any], autoencoder: type) -> dict[str, Any]:
    """Published configurations leave out what diffusers added later; its defaults are what they mean."""
    parameters = list(inspect.signature(autoencoder.__init__).parameters.values())[1:]
    known = {parameter.name: parameter.default for parameter in parameters}
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise EncoderError(
            f"AutoencoderKLWan has no setting {', '.join(unknown)}. Install the diffusers that wrote the checkpoint."
        )
    full = {**known, **config}
    if full["patch_size"] is not None:
        raise EncoderError(
            f"cosmos-predict2-vae cannot use patch_size {full['patch_size']} (a Wan 2.2 VAE). Give a Wan 2.1 VAE."
        )
    if not len(full["latents_mean"]) == len(full["latents_std"]) == full["z_dim"]:
        raise EncoderError(
            f"config.json has {len(full['latents_mean'])} latent means and {len(full['latents_std'])} deviations "
            f"for {full['z_dim']} channels. Fetch the checkpoint again."
        )
    return full
