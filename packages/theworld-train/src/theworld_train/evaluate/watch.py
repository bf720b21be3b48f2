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
        config = self._model.config
        if encodings.world is None or self._embeds is None or not any(encodings.items):
            return [False] * len(rows)
        tokens = [item.pooler_output for item in [encodings.for_rows(rows)["world"]]][0]
        gated = config.world_fusion == "gated"
        if gated and self._gated is None:
            return [False] * len(rows)
        seen = input_ids == (config.image_token_id if gated else config.world_token_id)  # [b, l]
        if gated and self._gated is not None:
            image, world, result = self._gated
            given = torch.stack([item.to(world) for item in tokens])
            if given.shape != world.shape:
                return [False] * len(rows)
            heard = ((given == world).flatten(1).all(1) & (result != image).flatten(1).any(1)).tolist()
            wanted = result.flatten(0, 1)
        else:
            heard, wanted = [True] * len(tokens), torch.cat([item.to(self._embeds) for item in tokens])
        if int(seen.sum()) != len(wanted):
            return [False] * len(rows)
        right = torch.zeros_like(seen)
        right[seen] = (self._embeds[seen] == wanted.to(self._embeds)).all(-1)
        whole = ((right == seen).all(1) & seen.any(1)).tolist()
        items = iter(heard)
        return [stood and all([next(items) for _ in range(encodings.items[row])]) for stood, row in zip(whole, rows)]


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
            tokens: Any = [1 - item for item in encoded["world"].pooler_output or ()]
            encoded["world"].pooler_output = tokens
        scores.append(model(**inputs, mm_encoder_outputs=encoded, logits_to_keep=1, use_cache=False).logits)
    if torch.equal(*scores):
        closed = " Its gate is closed: train it." if model.config.world_fusion == "gated" else ""
        raise WorldIgnored(
            "the world is on, but the model's scores do not depend on its world tokens: they would be the base "
            f"VLM's.{closed} Ask for it with the world off, or give a model that uses its world branch."
        )
