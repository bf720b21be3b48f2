"""Hidden states of a video diffusion transformer as features: the clip's latents, noised a little, one forward pass.

The research that this follows found such states, taken two thirds of the way up, better than the latents themselves.
Blocks above the chosen one are neither built nor read from disk.
"""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.checkpoint import find_component, load_exactly, read_config, read_tensors
from theworld_encoders.diffusion import fill_random, seeded_noise, with_settings
from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError
from theworld_encoders.prompt import PROMPT_TOKENS, EmptyPrompt
from theworld_encoders.wan_vae import CosmosPredict2Vae


class DiffusionEncoder(Encoder):
    """A VAE's encoder half, and a transformer up to block ``block``, on latents at noise level ``noise_level``.

    The configuration holds ``block`` (counted from 1; by default two thirds of the way up), ``noise_level`` (flow time:
    0 is clean, 1 is nothing but noise), ``seed``, ``prompt_tokens`` and, as published, ``transformer`` and ``vae``.
    """

    class_name: ClassVar[str]
    """The transformer's, in diffusers."""
    architecture: ClassVar[dict[str, Any]]
    """The published transformer's ``config.json``."""
    defaults: ClassVar[dict[str, int]]
    """What diffusers takes for ``num_layers`` and ``in_channels`` where that leaves them out."""
    mask_channels: ClassVar[int] = 0
    """Input channels beside the latents'."""
    settings: ClassVar[dict[str, Any]] = {}
    """Further settings, and their defaults."""

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        name = self.published.name
        common = {
            "block": None,
            "noise_level": 0.3,
            "seed": 0,
            "prompt_tokens": PROMPT_TOKENS,
            "transformer": {},
            "vae": {},
        }
        config = with_settings(name, {**common, **self.settings}, config)
        vae = CosmosPredict2Vae(config["vae"], frame_size or self.published.frame_size)
        config |= {"transformer": dict(config["transformer"] or self.architecture), "vae": vae.config}
        if not 0 <= config["noise_level"] <= 1:
            raise EncoderError(
                f"{name} has noise_level {config['noise_level']}. Use a number from 0, clean, to 1, nothing but noise."
            )
        config["noise_level"] = float(config["noise_level"])
        full = {**self.defaults, **config["transformer"]}
        if config["block"] is None:
            config["block"] = 2 * full["num_layers"] // 3
        self._check(config["block"], full["num_layers"], full["in_channels"], vae.spec.width + self.mask_channels)
        transformer = self.build(config["transformer"], config["block"])
        heads, patch = transformer.config.num_attention_heads, transformer.config.patch_size
        spec = replace(
            self.published,
            width=heads * transformer.config.attention_head_dim,
            frame_size=vae.spec.frame_size,
            spatial_stride=vae.spec.spatial_stride * patch[1],
            temporal_stride=vae.spec.temporal_stride * patch[0],
        )
        super().__init__(spec, config)
        self.vae, self.transformer = vae, transformer
        self.prompt = EmptyPrompt(config["prompt_tokens"], self.text_width(transformer))
        self.freeze()

    @classmethod
    @abstractmethod
    def build(cls, architecture: dict[str, Any], block: int) -> Any:
        """The transformer up to ``block``, without its head."""

    @classmethod
    @abstractmethod
    def text_width(cls, transformer: Any) -> int:
        """Width of the prompt's embedding."""

    @abstractmethod
    def hidden(self, latents: Float[Tensor, "m z t y x"], noise: Float[Tensor, "z t y x"]) -> Float[Tensor, "m n c"]:
        """What the last block gives for standardised latents and the noise to mix into them."""

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self:
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
        **settings: Any,
    ) -> Self:
        """As every encoder's; ``settings`` go into the configuration, e.g. ``block=20, noise_level=0.0``."""
        if source is None:
            source, revision = cls.published.repo_id, revision or cls.published.revision
        folder = find_component(source, cls.published.subfolder, revision)
        architecture = read_config(folder, cls.class_name)
        prompt = EmptyPrompt.from_pretrained(source, cls.published.subfolder, revision)
        frame_size = frame_size or cls.published.frame_size
        vae = CosmosPredict2Vae.from_pretrained(source, revision=revision, frame_size=frame_size)
        parts = {"transformer": architecture, "vae": vae.config, "prompt_tokens": prompt.weight.shape[0]}
        encoder = cls({**settings, **parts}, frame_size)
        load_exactly(encoder.transformer, read_tensors(folder, tuple(encoder.transformer.state_dict())), folder)
        load_exactly(encoder.prompt, {"weight": prompt.weight}, folder)
        encoder.vae = vae
        return encoder.to(device=device, dtype=dtype)

    @classmethod
    def config_of(cls, source: str | Path, *, revision: str | None = None, **settings: Any) -> dict[str, Any]:
        folder = find_component(source, cls.published.subfolder, revision, weights=False)
        vae = CosmosPredict2Vae.config_of(source, revision=revision)
        return {**settings, "transformer": read_config(folder, cls.class_name), "vae": vae}

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        latents = rearrange(self.vae.encode(pixels), "m t y x z -> m z t y x").float()
        noise = seeded_noise(tuple(latents.shape[1:]), self.config["seed"], latents)
        _, rows, columns = self.spec.grid(*pixels.shape[1:2], *pixels.shape[3:])
        return rearrange(self.hidden(latents, noise), "m (t r s) c -> m t r s c", r=rows, s=columns)

    def reset_parameters(self) -> None:
        self.vae.reset_parameters()
        fill_random(self.transformer)
        self.prompt.reset_parameters()

    @classmethod
    def _check(cls, block: int, blocks: int, channels: int, wanted: int) -> None:
        name = cls.published.name
        if block not in range(1, blocks + 1):
            raise EncoderError(f"{name} has block {block}, its transformer has {blocks} blocks. Use 1 to {blocks}.")
        if channels != wanted:
            raise EncoderError(
                f"{name} needs a transformer of {wanted} input channels, this one has {channels}. "
                f"Give a checkpoint such as {cls.published.repo_id}."
            )
