"""Gemma 3's image projector, which can also begin in its middle: with features that were pooled before.

The vision tower's output is pooled first, which has no weights and leaves a sixteenth; then come a norm and a matrix,
which a recipe may train. So what is kept of a picture is the pooled output: nothing that changes lies before it but the
tower itself.

Letters: ``n`` pictures, ``l`` patches, ``p`` image tokens, ``c`` the tower's width, ``d`` the model's.
"""

from jaxtyping import Float
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector


class ImageProjector(Gemma3MultiModalProjector):
    """Gemma 3's; its names and weights are the same."""

    def pool(self, hidden: Float[Tensor, "n l c"]) -> Float[Tensor, "n p c"]:
        """The tower's output, averaged over squares of patches."""
        side = self.patches_per_image
        grid = hidden.transpose(1, 2).unflatten(2, (side, side)).contiguous()
        return self.avg_pool(grid).flatten(2).transpose(1, 2)

    def forward(self, vision_outputs: Float[Tensor, "n _ c"], pooled: bool = False) -> Float[Tensor, "n p d"]:
        """Image tokens of the tower's output, or of its ``pooled`` output: the same ones, bit by bit."""
        # Gemma 3 reads the pool's output across its memory, and sums in another order would round otherwise.
        features = vision_outputs.transpose(1, 2).contiguous().transpose(1, 2) if pooled else self.pool(vision_outputs)
        # Across its memory, a tensor times a frozen weight would be a slow batched product.
        normed = self.mm_soft_emb_norm(features).contiguous()
        return (normed @ self.mm_input_projection_weight).type_as(vision_outputs)
