"""Gated fusion: each image token takes in the world's view of its own place, as much as its gate lets through.

Shapes: ``n`` images, ``k`` image tokens of each, ``d`` model width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class WorldGate(nn.Module):
    """``image + tanh(gate) * world`` for each token, where ``gate`` is one number made from both.

    The gate starts at zero, so that the fused model starts as the base VLM bit for bit: ``tanh(0) * world`` is zero.
    Hence a first training step moves the gate alone, and from the second on the projector behind it too.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        # Not an nn.Linear inside: for classes outside its tree, transformers never initialises a module that has no
        # parameters of its own, and would give its child Gemma's random weights.
        self.weight = nn.Parameter(torch.zeros(1, 2 * width))
        self.bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Close the gate."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, image: Float[Tensor, "n k d"], world: Float[Tensor, "n k d"]) -> Float[Tensor, "n k d"]:
        """Both at the scale of token embeddings; for the gate alone they are brought to one scale."""
        both = [nn.functional.rms_norm(tokens, tokens.shape[-1:], eps=self.eps) for tokens in (image, world)]
        return image + torch.tanh(nn.functional.linear(torch.cat(both, dim=-1), self.weight, self.bias)) * world
