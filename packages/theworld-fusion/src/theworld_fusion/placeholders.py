"""What is never generated."""

import torch
from jaxtyping import Bool, Float, Int
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
        self._banned: Bool[Tensor, "b v"] | None = None

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Raw scores with minus infinity where a placeholder would be generated."""
        if self._banned is None or self._banned.shape != scores.shape:
            self._banned = self._find(input_ids, scores)
        return scores.masked_fill(self._banned, -torch.inf)

    def _find(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Bool[Tensor, "b v"]:
        """Once for all steps, since prompts stay as they are: what each row may not generate."""
        banned = torch.zeros_like(scores, dtype=torch.bool)
        for token_id in self.ids:
            banned[:, token_id] = True
        if self.prompt_length is None:
            return banned
        return banned & (input_ids[:, : self.prompt_length] == self.marker).any(-1, keepdim=True)
