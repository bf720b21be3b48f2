"""World features to world tokens: resample to the slot grid, space to depth, project, tell frames apart, scale.

Shapes: ``m`` items, ``t`` latent frames, ``r s`` feature grid, ``c`` feature width, ``k`` slots per item, ``d`` model
width.
"""

from math import sqrt

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.slots import grid_side


class WorldProjector(nn.Module):
    """Features of items of one shape to their world tokens, at the scale of the VLM's own token embeddings."""

    def __init__(self, config: TheWorldConfig, feature_width: int) -> None:
        super().__init__()
        width, text = feature_width * config.world_patch**2, config.get_text_config()
        self.budget, self.patch = config.world_tokens_per_item, config.world_patch
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
        finest = grid_side(config.world_tokens_per_item, 1)
        self.frame_embedding = nn.Parameter(torch.zeros(config.max_world_frames, text.hidden_size))
        self.row_embedding = nn.Parameter(torch.zeros(finest, text.hidden_size))
        self.column_embedding = nn.Parameter(torch.zeros(finest, text.hidden_size))
        # Not called ..RMSNorm: Gemma 3's initialisation would zero its weight. The weight is the learned scale.
        self.norm = nn.RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.boundaries = nn.Parameter(torch.zeros(2, text.hidden_size))
        """Embeddings of SOW and EOW: rows of a frozen embedding matrix would never learn."""

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
        nn.init.normal_(self.boundaries, std=scale)

    def forward(self, features: Float[Tensor, "m t r s c"]) -> Float[Tensor, "m k d"]:
        """Raises:
        ValueError: more latent frames than the configuration's ``max_world_frames``.
        """
        items, frames = features.shape[:2]
        if frames > self.frame_embedding.shape[0]:
            raise ValueError(
                f"an item has {frames} latent frames, the model tells {self.frame_embedding.shape[0]} apart. "
                "Give shorter clips, or raise max_world_frames."
            )
        side = grid_side(self.budget, frames) * self.patch
        # A frame's mean is most of every feature and says the same in each. Taken out, what stands out is seen at once;
        # it comes back by its own layer, so nothing is lost.
        mean = features.mean(dim=(2, 3))
        images = rearrange(features - mean[:, :, None, None], "m t r s c -> (m t) c r s")
        if images.shape[-2:] != (side, side):
            images = nn.functional.adaptive_avg_pool2d(images, side)
        cells = rearrange(images, "(m t) c (g p) (f q) -> m t (g f) (p q c)", m=items, p=self.patch, q=self.patch)
        where = self._rows_and_columns(side // self.patch)
        tokens = self.layers(cells) + (self.mean(mean) + self.frame_embedding[:frames])[:, :, None] + where
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
