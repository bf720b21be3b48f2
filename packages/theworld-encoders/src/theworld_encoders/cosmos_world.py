"""Cosmos-Predict2 as a world encoder: its VAE's latents and, if asked, latents that its transformer predicts."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.checkpoint import find_component, read_config
from theworld_encoders.cosmos_transformer import CLASS_NAME
from theworld_encoders.errors import EncoderError
from theworld_encoders.predictor import FuturePredictor
from theworld_encoders.wan_vae import CosmosPredict2Vae


class CosmosPredict2World(CosmosPredict2Vae):
    """``num_future_frames`` future latent frames follow the observed ones; 0, the default, loads no transformer.

    The configuration is the VAE's, plus ``num_future_frames`` and ``predictor`` (``FuturePredictor``'s own).
    """

    published = replace(
        CosmosPredict2Vae.published,
        revision="f50c09f5d8ab133a90cac3f4886a6471e9ba3f18",
        predicts_future=True,
    )

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        config = dict(config)
        num_frames, predictor = config.pop("num_future_frames", 0), config.pop("predictor", {})
        super().__init__(config, frame_size)
        self.predictor = None
        if num_frames:
            self._predict_with(FuturePredictor(num_frames, predictor))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        num_future_frames: int = 0,
        **settings: Any,
    ) -> Self:
        """As every encoder's; ``settings`` are the predictor's, e.g. ``denoising_steps=20, seed=1``."""
        if source is None:
            source, revision = cls.published.repo_id, revision or cls.published.revision
        encoder: Any = super().from_pretrained(source, revision=revision, frame_size=frame_size)
        if num_future_frames:
            encoder._predict_with(FuturePredictor.from_pretrained(num_future_frames, source, revision, **settings))
        elif settings:
            raise EncoderError(
                f"{', '.join(settings)} is for a predictor, and num_future_frames is 0. Leave it out, or predict some."
            )
        return encoder.to(device=device, dtype=dtype)

    @classmethod
    def config_of(cls, source: str | Path, *, revision: str | None = None, **settings: Any) -> dict[str, Any]:
        config, num_frames = super().config_of(source, revision=revision), settings.pop("num_future_frames", 0)
        if not num_frames:
            return config
        folder = find_component(source, "transformer", revision, weights=False)
        predictor = {**settings, "transformer": read_config(folder, CLASS_NAME)}
        return {**config, "num_future_frames": num_frames, "predictor": predictor}

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        latents = super().encode(pixels)
        return latents if self.predictor is None else torch.cat([latents, self.predictor(latents)], dim=1)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.predictor is not None:
            self.predictor.reset_parameters()

    def _predict_with(self, predictor: FuturePredictor) -> None:
        self.predictor = predictor
        self.spec = replace(self.spec, future_frames=predictor.num_frames)
        self.config = {**self.config, "num_future_frames": predictor.num_frames, "predictor": predictor.config}
