"""What is never generated."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.generation import LogitsProcessor


class NoPlaceholders(LogitsProcessor):
    """Rows with world input generate no placeholder; the others decode as the base VLM does.

    Image placeholders are among them: prompt lookup would draft them from the prompt.

    Args:
        ids: of the placeholders.
        marker: the id that a row with world input has in its prompt.
        prompt_length: tokens of the prompt; ``None`` where it was given as embeddings, and then this is for every row.
    """

    def __init__(self, ids: list[int], marker: int, prompt_length: int | None) -> None:
        self.ids, self.marker, self.prompt_length = ids, marker, prompt_length

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Raw scores with minus infinity where a placeholder would be generated."""
        scores = scores.clone()
        if self.prompt_length is None:
            scores[:, self.ids] = -torch.inf
        else:
            rows = (input_ids[:, : self.prompt_length] == self.marker).any(-1, keepdim=True)
            scores[:, self.ids] = scores[:, self.ids].masked_fill(rows, -torch.inf)
        return scores
