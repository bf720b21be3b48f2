"""Whether world tokens reach the language model: seen at its input, not taken on trust.

A model that leaves its world branch out still answers, and its scores are those of the base VLM; nothing else shows it.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from theworld_train.evaluate.prompts import Encodings, Prompt, stack


class WorldIgnored(RuntimeError):
    """The world is on, and what it gives does not reach the language model."""


class WorldWatch:
    """While it is open, keeps what the language model is given at each prefill, and what a gate made of it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._handles: list[Any] = []
        self.clear()

    def __enter__(self) -> Self:
        inner = self._model.model
        self._handles.append(inner.language_model.register_forward_pre_hook(self._see, with_kwargs=True))
        if hasattr(inner, "world_gate"):
            self._handles.append(inner.world_gate.register_forward_hook(self._see_gate))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def clear(self) -> None:
        """Forget the call before; the next one is a new prefill."""
        self._embeds: Tensor | None = None
        self._gated: tuple[Tensor, Tensor, Tensor] | None = None

    def _see(self, module: Any, inputs: Any, settings: dict[str, Any]) -> None:
        if self._embeds is None:
            self._embeds = settings.get("inputs_embeds")

    def _see_gate(self, module: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        self._gated = (*inputs, output)

    @torch.no_grad()
    def reached(self, input_ids: Tensor, encodings: Encodings, rows: Sequence[int]) -> list[bool]:
        """For each row, whether all world tokens of its prompt stood in the language model's input, in their order.

        With a gate: whether it was given them, let something of them through, and its result stood there.

        Args:
            input_ids: ``[b, l]``, as the model had them.
            rows: the prompt of each row.
        """
        tokens = encodings.world_of(rows)
        if not tokens or self._embeds is None:
            return [False] * len(rows)
        config = self._model.config
        if config.world_fusion == "gated":
            placeholder, (wanted, through) = config.image_token_id, self._through_gate(tokens)
        else:
            placeholder, wanted, through = config.world_token_id, torch.cat(tokens), [True] * len(tokens)
        seen = input_ids == placeholder  # [b, l]
        if int(seen.sum()) != len(wanted):
            return [False] * len(rows)
        embeds = self._embeds[:: len(self._embeds) // len(rows)]  # beams of a row stand together
        stands = torch.zeros_like(seen)
        stands[seen] = (embeds[seen] == wanted.to(embeds)).all(-1)
        whole = ((stands == seen).all(1) & seen.any(1)).tolist()
        each = iter(through)
        of_rows = [[next(each) for _ in range(encodings.items[row])] for row in rows]
        return [here and all(items) for here, items in zip(whole, of_rows, strict=True)]

    def _through_gate(self, tokens: Sequence[Tensor]) -> tuple[Tensor, list[bool]]:
        """What left the gate, ``[n k, d]``, and for each item whether it went in and changed its image."""
        if self._gated is None or len(tokens) != len(self._gated[1]):
            return torch.empty(0), [False] * len(tokens)
        image, world, result = self._gated
        given = torch.stack([item.to(world) for item in tokens])
        through = (given == world).flatten(1).all(1) & (result != image).flatten(1).any(1)
        return result.flatten(0, 1), through.tolist()


@torch.no_grad()
def check_influence(model: Any, prompt: Prompt, encodings: Encodings, pad_token_id: int) -> None:
    """See that what comes next depends on the world tokens: with others in their place, the scores differ.

    Args:
        encodings: of this prompt alone.

    Raises:
        WorldIgnored: they are the same to the last bit.
    """
    inputs = stack([prompt], None, pad_token_id, model.device)
    scores = []
    for change in (False, True):
        encoded = encodings.for_rows([0])
        if change:
            tokens: Any = [1 - item for item in encodings.world_of([0])]
            encoded["world"].pooler_output = tokens
        scores.append(model(**inputs, mm_encoder_outputs=encoded, logits_to_keep=1, use_cache=False).logits)
    if torch.equal(*scores):
        closed = " Its gate is closed: train it." if model.config.world_fusion == "gated" else ""
        raise WorldIgnored(
            "the world is on, but the model's scores do not depend on its world tokens: they would be the base "
            f"VLM's.{closed} Ask for it with the world off, or give a model that uses its world branch."
        )
