"""SigLIP's vision tower: SigLIP and SigLIP 2 as published, and the tower inside Gemma 3. No text tower, no head.

Features are those of the last layer after its norm, which is what Gemma 3 reads.
"""

import re
from dataclasses import replace
from itertools import product
from typing import Any, Self

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.spec import EncoderSpec
from theworld_encoders.transformers_encoder import TransformersEncoder, configuration, needs_transformers

_PREFIX = re.compile(r"(model\.)?(vision_tower\.)?(vision_model\.)?")
"""What stands before the tower's own names: SigLIP's, Gemma 3's as published, and as transformers writes them since."""


class Siglip(TransformersEncoder):
    """Each frame to features of 1/14 of its side.

    Any folder with such a tower can be given: SigLIP's, SigLIP 2's, or Gemma 3's, of which nothing but the tower is
    read. Frames of another size than the tower was trained on get resampled position embeddings.
    """

    published = EncoderSpec(
        name="siglip",
        kind="vision",
        width=1152,
        frame_size=384,
        spatial_stride=14,
        drops_edges=True,
        temporal_stride=1,
        resample="bicubic",
        repo_id="google/siglip-so400m-patch14-384",
        revision="9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
        subfolder="",
        licence="Apache-2.0",
        gated=False,
    )
    published_config = {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    }
    model_types = ("siglip", "siglip_vision_model", "gemma3")

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        with needs_transformers(self.published.name):
            import transformers.models.siglip.modeling_siglip as modeling
        vision = {**(config.get("vision_config", config) or self.published_config), "vision_use_head": False}
        tower = configuration(modeling.SiglipVisionConfig, vision, self.published.name)
        spec = replace(
            self.published,
            width=tower.hidden_size,
            frame_size=frame_size or tower.image_size,
            spatial_stride=tower.patch_size,
        )
        super().__init__(spec, vision)
        self.vision_model: nn.Module = modeling.SiglipVisionModel(tower)
        self.freeze()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self:
        return cls(config, frame_size)

    @property
    def stored_prefixes(self) -> tuple[str, ...]:
        towers = ("", "vision_model.", "vision_tower.", "vision_tower.vision_model.")
        return tuple(map("".join, product(("", "model."), towers, ("embeddings.", "encoder.", "post_layernorm."))))

    def own_name(self, stored: str) -> str:
        return _PREFIX.sub("vision_model.", stored, count=1)

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        items, rows = len(pixels), pixels.shape[-2] // self.spec.spatial_stride
        frames = rearrange(pixels, "m t c h w -> (m t) c h w")
        features = self.vision_model(frames, interpolate_pos_encoding=True).last_hidden_state
        return rearrange(features, "(m t) (r s) c -> m t r s c", m=items, r=rows)

    def reset_parameters(self) -> None:
        for module in self.vision_model.modules():
            self.vision_model._init_weights(module)  # pyright: ignore[reportCallIssue]


class Siglip2(Siglip):
    """The same tower, trained further; its pictures are resized by another filter."""

    published = replace(
        Siglip.published,
        name="siglip2",
        resample="bilinear",
        repo_id="google/siglip2-so400m-patch14-384",
        revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
    )


class Gemma3Siglip(Siglip):
    """The tower inside Gemma 3, on the pixels that Gemma 3 gives it: what the base VLM sees, once more."""

    published = replace(
        Siglip.published,
        name="gemma3-siglip",
        frame_size=896,
        resample="bilinear",
        repo_id="google/gemma-3-4b-it",
        revision="093f9f388b31de276ce2de164bdc2081324b9767",
        licence="Gemma Terms of Use",
        gated=True,
    )
    published_config = {**Siglip.published_config, "image_size": 896}
