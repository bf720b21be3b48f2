"""DINOv3's vision transformer: patch features of each frame, without the class token and the registers."""

import re
from dataclasses import replace
from typing import Any, Self

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.spec import EncoderSpec
from theworld_encoders.transformers_encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TransformersEncoder,
    configuration,
    needs_transformers,
)


class DinoV3(TransformersEncoder):
    """Each frame to features of 1/16 of its side; positions are rotary, so frames may have any size."""

    published = EncoderSpec(
        name="dinov3",
        kind="vision",
        width=1024,
        frame_size=224,
        spatial_stride=16,
        temporal_stride=1,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        resample="bilinear",
        repo_id="facebook/dinov3-vitl16-pretrain-lvd1689m",
        revision="ea8dc2863c51be0a264bab82070e3e8836b02d51",
        subfolder="",
        licence="DINOv3 License",
        gated=True,
    )
    published_config = {
        "hidden_size": 1024,
        "image_size": 224,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_register_tokens": 4,
        "patch_size": 16,
    }
    model_types = ("dinov3_vit",)

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        with needs_transformers(self.published.name):
            import transformers.models.dinov3_vit.modeling_dinov3_vit as modeling
        config = config or self.published_config
        settings = configuration(modeling.DINOv3ViTConfig, config, self.published.name)
        spec = replace(
            self.published,
            width=settings.hidden_size,
            frame_size=frame_size or settings.image_size,
            spatial_stride=settings.patch_size,
        )
        super().__init__(spec, config)
        self.model: nn.Module = modeling.DINOv3ViTModel(settings)
        self._others = 1 + settings.num_register_tokens
        self.freeze()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self:
        return cls(config, frame_size)

    @property
    def stored_prefixes(self) -> tuple[str, ...]:
        return ("",)

    def own_name(self, stored: str) -> str:
        return "model." + re.sub(r"^layer\.", "model.layer.", stored)  # published before transformers nested its layers

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        items, rows = len(pixels), pixels.shape[-2] // self.spec.spatial_stride
        frames = rearrange(pixels, "m t c h w -> (m t) c h w")
        features = self.model(frames).last_hidden_state[:, self._others :]
        return rearrange(features, "(m t) (r s) c -> m t r s c", m=items, r=rows)

    def reset_parameters(self) -> None:
        for module in self.model.modules():
            self.model._init_weights(module)  # pyright: ignore[reportCallIssue]
