"""Future latents: Cosmos-Predict2's transformer continues a clip, in few steps of its pipeline's own schedule.

As in ``Cosmos2VideoToWorldPipeline`` the observed latents are given clean and those to come start as noise; here the
prompt is empty and there is no guidance. The result are standardised latents, as the VAE gives them.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.checkpoint import find_component, load_exactly, read_config, read_tensors
from theworld_encoders.cosmos_transformer import ARCHITECTURE, CLASS_NAME, FPS, build_cosmos, cosmos_inputs
from theworld_encoders.diffusion import fill_random, seeded_noise, with_settings
from theworld_encoders.errors import EncoderError
from theworld_encoders.prompt import PROMPT_TOKENS, EmptyPrompt

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0
"""The pipeline's noise scales, and the exponent of its schedule (Karras)."""


class FuturePredictor(nn.Module):
    """Standardised latents of observed frames to the next ``num_frames`` latent frames.

    The configuration holds ``denoising_steps`` (of which the pipeline's last changes nothing and is left out),
    ``seed``, ``prompt_tokens`` and, as published, ``transformer``.
    """

    def __init__(self, num_frames: int, config: dict[str, Any]) -> None:
        """Raises:
        EncoderError: a setting is unknown or impossible, or the transformer is none of Cosmos-Predict2's.
        """
        super().__init__()
        defaults = {"denoising_steps": 10, "seed": 0, "prompt_tokens": PROMPT_TOKENS, "transformer": {}}
        self.config = with_settings("the predictor", defaults, config)
        self.config["transformer"] = dict(self.config["transformer"] or ARCHITECTURE)
        for name, value, least in (
            ("num_future_frames", num_frames, 1),
            ("denoising_steps", self.config["denoising_steps"], 2),
        ):
            if value < least:
                raise EncoderError(f"{name} of the predictor is {value}. Use at least {least}.")
        self.num_frames = num_frames
        layers = self.config["transformer"].get("num_layers", 28)
        self.transformer = build_cosmos(self.config["transformer"], layers)
        self.prompt = EmptyPrompt(self.config["prompt_tokens"], self.transformer.config.text_embed_dim)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, num_frames: int, source: str | Path, revision: str | None, **settings: Any
    ) -> "FuturePredictor":
        """From a folder or hub id with ``transformer/`` and an exported prompt (see ``theworld_encoders.prompt``).

        Raises:
            EncoderError: something of it is missing or does not fit.
        """
        folder = find_component(source, "transformer", revision)
        architecture = read_config(folder, CLASS_NAME)
        prompt = EmptyPrompt.from_pretrained(source, "transformer", revision)
        parts = {"transformer": architecture, "prompt_tokens": prompt.weight.shape[0]}
        predictor = cls(num_frames, {**settings, **parts})
        load_exactly(predictor.transformer, read_tensors(folder, tuple(predictor.transformer.state_dict())), folder)
        load_exactly(predictor.prompt, {"weight": prompt.weight}, folder)
        return predictor

    def reset_parameters(self) -> None:
        """Fill every parameter at random."""
        fill_random(self.transformer)
        self.prompt.reset_parameters()

    def forward(self, latents: Float[Tensor, "m t r s z"]) -> Float[Tensor, "m n r s z"]:
        """What comes after ``latents``, the same for an item whatever stands beside it."""
        observed = rearrange(latents, "m t r s z -> m z t r s").float()
        items, channels, frames, rows, columns = observed.shape
        noise = seeded_noise((channels, frames + self.num_frames, rows, columns), self.config["seed"], observed)
        future = SIGMA_MAX * noise[:, frames:].expand(items, -1, -1, -1, -1)
        prompt, dtype = self.prompt(items), self.transformer.dtype
        for sigma, following in pairwise(karras_sigmas(self.config["denoising_steps"]).to(observed.device)):
            level = sigma / (sigma + 1)
            inputs, timestep = cosmos_inputs(observed, future * (1 - level), level)
            output, *_ = self.transformer(inputs.to(dtype), timestep.to(dtype), prompt, fps=FPS, return_dict=False)
            clean = (1 - level) * future - level * output[:, :, frames:].float()
            future = future + (following - sigma) * (future - clean) / sigma
        return rearrange(future, "m z n r s -> m n r s z").to(latents.dtype)


def karras_sigmas(steps: int) -> Float[Tensor, " steps"]:
    """Noise scales from ``SIGMA_MAX`` down to ``SIGMA_MIN``."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return ((high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** RHO).float()
