"""V-JEPA 2: a video transformer that was trained to predict its own features, and where asked, its predictor."""

from dataclasses import replace
from typing import Any, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec
from theworld_encoders.transformers_encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TransformersEncoder,
    configuration,
    needs_transformers,
)


class VJepa2(TransformersEncoder):
    """Pairs of frames to features of 1/16 of the side; a picture is repeated to a pair by the frame rule.

    The centre square of each frame is taken. The publisher's processor also cuts 12 % off that square (shortest edge to
    292, then 256): here nothing of it is lost.

    ``num_future_frames`` in the configuration (default 0, which neither builds nor reads the predictor) is the number
    of feature frames, each of two frames, that the predictor adds after the clip's own.
    """

    published = EncoderSpec(
        name="vjepa2",
        kind="world",
        width=1024,
        frame_size=256,
        spatial_stride=16,
        temporal_stride=2,
        first_frame_alone=False,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        resize="crop",
        resample="bilinear",
        repo_id="facebook/vjepa2-vitl-fpc64-256",
        revision="b3c1679b7c34d3255ef3547f27c7b226aefab26f",
        subfolder="",
        licence="MIT",
        gated=False,
        predicts_future=True,
    )
    published_config = {"crop_size": 256, "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
    model_types = ("vjepa2",)

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        with needs_transformers(self.published.name):
            import transformers.models.vjepa2.modeling_vjepa2 as modeling
        config = config or self.published_config
        futures = config.get("num_future_frames", 0)
        if not isinstance(futures, int) or futures < 0:
            raise EncoderError(f"num_future_frames is {futures!r}. Use a whole number of at least 0.")
        # Places are counted on a grid of the crop's size and have no weights: so the frame size may take its place.
        size = {"crop_size": frame_size} if frame_size else {}
        settings = configuration(modeling.VJEPA2Config, {**config, **size}, self.published.name)
        spec = replace(
            self.published,
            width=settings.hidden_size,
            frame_size=settings.crop_size,
            spatial_stride=settings.patch_size,
            temporal_stride=settings.tubelet_size,
            future_frames=futures,
        )
        super().__init__(spec, config)
        self.encoder: nn.Module = modeling.VJEPA2Encoder(settings)
        self.predictor: nn.Module | None = modeling.VJEPA2Predictor(settings) if futures else None
        self._std = settings.initializer_range
        self.reset_parameters()
        self.freeze()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self:
        return cls(config, frame_size)

    @property
    def stored_prefixes(self) -> tuple[str, ...]:
        return ("encoder.",) if self.predictor is None else ("encoder.", "predictor.")

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        height, width = pixels.shape[-2:]
        if height != self.spec.frame_size or width != self.spec.frame_size:
            raise EncoderError(
                f"this {self.spec.name} counts places in frames of {self.spec.frame_size} pixels a side, not of "
                f"{height} x {width}. Load it with the frame_size of its input."
            )
        features = self.encoder(pixels).last_hidden_state
        if self.predictor is not None:
            features = torch.cat([features, self._futures(features)], dim=1)
        side = self.spec.frame_size // self.spec.spatial_stride
        return rearrange(features, "m (t r s) c -> m t r s c", r=side, s=side)

    def _futures(self, features: Float[Tensor, "m n c"]) -> Float[Tensor, "m f c"]:
        """What the predictor expects at the places after the clip, from all of the clip."""
        known = features.shape[1]
        wanted = self.spec.future_frames * (self.spec.frame_size // self.spec.spatial_stride) ** 2
        places = torch.arange(known + wanted, device=features.device).expand(len(features), -1)
        predicted = self.predictor(features, [places[:, :known]], [places[:, known:]])  # pyright: ignore[reportOptionalCall]
        return predicted.last_hidden_state

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.trunc_normal_(module.weight, std=self._std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif "mask_tokens" in dict(module.named_parameters(recurse=False)):
                nn.init.zeros_(module.mask_tokens)  # pyright: ignore[reportArgumentType]
