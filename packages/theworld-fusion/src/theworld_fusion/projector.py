"""World features to world tokens: resample to the token grid, space to depth, project, tell frames apart, scale.

Shapes: ``m`` items, ``t`` latent frames, ``r s`` feature grid, ``c`` feature width, ``k`` tokens per item, ``d`` model
width.
"""

from math import isqrt, sqrt

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.slots import grid_side


class WorldBoundaries(nn.Module):
    """Embeddings of SOW and EOW: rows of a frozen embedding matrix would never learn.

    A module, not a parameter of the projector: an offloaded weight is there only while its own module runs.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, width))

    def forward(self) -> Float[Tensor, "2 d"]:
        """Start, end."""
        return self.weight


class WorldProjector(nn.Module):
    """Features of items of one shape to their world tokens, at the scale of the VLM's own token embeddings.

    For ``sequence`` an item has its slots, frame by frame; for ``gated`` one token per image token, on that grid.
    """

    def __init__(self, config: TheWorldConfig, feature_width: int) -> None:
        super().__init__()
        width, text = feature_width * config.world_patch**2, config.get_text_config()
        self.feature_width, self.patch = feature_width, config.world_patch
        self.gated = config.world_fusion == "gated"
        self.budget = int(config.mm_tokens_per_image or 0) if self.gated else config.world_tokens_per_item
        self.initial_scale = text.initializer_range * sqrt(text.hidden_size)
        if config.world_projector == "linear":
            self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, text.hidden_size))
        else:
            hidden = nn.Linear(width, text.hidden_size)
            self.layers = nn.Sequential(
                nn.LayerNorm(width), hidden, nn.GELU(), nn.Linear(text.hidden_size, text.hidden_size)
            )
        self.mean = nn.Linear(feature_width, text.hidden_size, bias=False)
        """What all places of a frame have in common; it starts at zero."""
        finest = isqrt(self.budget)
        self.frame_embedding = nn.Parameter(torch.zeros(config.max_world_frames, text.hidden_size))
        self.row_embedding = nn.Parameter(torch.zeros(finest, text.hidden_size))
        self.column_embedding = nn.Parameter(torch.zeros(finest, text.hidden_size))
        # Not called ..RMSNorm: Gemma 3's initialisation would zero its weight. The weight is the learned scale.
        self.norm = nn.RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.boundaries = None if self.gated else WorldBoundaries(text.hidden_size)

    def reset_parameters(self) -> None:
        """Fill every parameter at random, at the embeddings' scale."""
        for layer in self.layers:
            if isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mean.weight)
        for embedding in (self.frame_embedding, self.row_embedding, self.column_embedding):
            nn.init.normal_(embedding, std=0.5)
        self.match_scale(self.initial_scale)

    @torch.no_grad()
    def match_scale(self, scale: float) -> None:
        """Start at token embeddings of root mean square ``scale`` (after Gemma's multiplication by sqrt(d))."""
        nn.init.constant_(self.norm.weight, scale)
        if self.boundaries is not None:
            nn.init.normal_(self.boundaries.weight, std=scale)

    def forward(self, features: Float[Tensor, "m t r s c"]) -> Float[Tensor, "m k d"]:
        """Raises:
        ValueError: more latent frames than the configuration's ``max_world_frames``, or features of another encoder.
        """
        items, frames = features.shape[:2]
        if frames > self.frame_embedding.shape[0]:
            raise ValueError(
                f"an item has {frames} latent frames, the model tells {self.frame_embedding.shape[0]} apart. "
                "Give shorter clips, or raise max_world_frames."
            )
        if features.shape[-1] != self.feature_width:
            raise ValueError(
                f"world features are {features.shape[-1]} wide, this model's encoder gives {self.feature_width}. "
                "Compute them with the encoder that the model was made with."
            )
        side = isqrt(self.budget) if self.gated else grid_side(self.budget, frames)
        # A frame's mean is most of every feature and says the same in each. Taken out, what stands out is seen at once;
        # it comes back by its own layer, so nothing is lost.
        mean = features.mean(dim=(2, 3))
        images = rearrange(features - mean[:, :, None, None], "m t r s c -> (m t) c r s")
        images = pool_area(images, side * self.patch)
        cells = rearrange(images, "(m t) c (g p) (f q) -> m t (g f) (p q c)", m=items, p=self.patch, q=self.patch)
        frame = self.frame_embedding[:frames]
        shift = self.mean(mean) if self.gated else self.mean(mean) + frame
        tokens = self.layers(cells) + shift[:, :, None] + self._rows_and_columns(side)
        if self.gated:  # all frames share the image's grid: each has its own weights, or their order would be lost
            tokens = (tokens * (1 + frame)[:, None]).mean(dim=1, keepdim=True)
        return self.norm(rearrange(tokens, "m t n d -> m (t n) d"))

    def _rows_and_columns(self, side: int) -> Float[Tensor, "n d"]:
        """Where each cell of a ``side`` x ``side`` grid is; a coarse cell has the mean of the fine ones it covers.

        The language model's rotary positions tell tokens apart but are in no value it could compute with.
        """
        rows, columns = (
            nn.functional.adaptive_avg_pool1d(embedding.T, side).T
            for embedding in (self.row_embedding, self.column_embedding)
        )
        return rearrange(rows[:, None] + columns[None], "r s d -> (r s) d")


def pool_area(images: Float[Tensor, "n c r s"], side: int) -> Float[Tensor, "n c g g"]:
    """Resample to ``side`` x ``side`` by area: each new cell is the mean of the old ones that it overlaps."""
    return images if images.shape[-2:] == (side, side) else nn.functional.adaptive_avg_pool2d(images, side)
