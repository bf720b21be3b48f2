"""What ``generate`` computed for a prompt, kept for the next prompt that begins alike.

Shapes: ``b`` row, ``h`` key-value head, ``l`` token, ``d`` width of a head.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from theworld_fusion.prompt_rows import MEDIA, PromptRow, common_columns, read_rows

HAS_WORLD = "has_world"
"""Attribute of a cache with world input in it: a later turn on it has to know, and gated prompts do not show it."""


class PrefixCache:
    """Keys and values of the last prompt, for many questions on one picture or clip and for conversations.

    Pass it to ``generate`` as ``past_key_values``, with the inputs of the whole prompt as the processor makes them.
    What the prompt has in common with the one before is neither encoded nor run through the language model again: ids,
    token types and the content of pictures and clips are compared, and a picture's tokens are reused all or not at all.
    So an answer is what it is without a cache, up to rounding, whatever was asked before; with another picture, or
    after a training step, nothing is reused.

    It keeps every token of one prompt, in sliding layers too, and a copy of its pixels. Weights that are switched but
    not written to, such as another adapter's, it cannot see: call ``clear``.

    Attributes:
        reused: tokens of the last call that were taken from the call before, over all rows.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the prompt and free its memory."""
        self.reused = 0
        self._row: PromptRow | None = None
        self._cache: Any = None
        self._weights: list[tuple[int, int]] = []

    def begin(self, model: Any, input_ids: Int[Tensor, "b l"], inputs: dict[str, Any]) -> dict[str, Any]:
        """``generate`` calls this: its other arguments with what is known left out, and with a cache that holds it.

        That cache is filled by the call and looked at in the next one. Its beginning is a view of the cache before,
        which nothing writes to: layers grow by concatenation.

        Raises:
            ValueError: positions are given, padding is not on the left, or media are missing.
        """
        if inputs.get("position_ids") is not None:
            raise ValueError("a PrefixCache counts positions itself. Leave position_ids out.")
        rows, weights = read_rows(model.config, input_ids, inputs), _weights(model)
        known = self._row if weights == self._weights else None
        rows = [row.settled(known) for row in rows]
        columns = 0
        if known is not None:
            columns = common_columns(rows, known, _filled(self._cache, model.config) - known.padding)
        lengths = [max(0, columns - row.padding) for row in rows]
        self.reused = sum(lengths)
        cache = PromptCache()
        if known is not None and self.reused:
            cache.begin(self._cache, known.padding, [row.padding for row in rows], columns)
        blocks = [
            (block, block.start < length) for row, length in zip(rows, lengths, strict=True) for block in row.blocks
        ]
        rest = dict(inputs)
        for kind in MEDIA:
            if any(is_known and block.numbers[kind] for block, is_known in blocks):
                left = [number for block, is_known in blocks if not is_known for number in block.numbers[kind]]
                rest = _with_media(rest, kind, left)
        if self.reused and not any(row.types[length:].any() for row, length in zip(rows, lengths, strict=True)):
            rest.pop("token_type_ids", None)  # a mask for blocks takes long to make, and what is new has none
        had_world = getattr(self._cache, HAS_WORLD, False)
        if any(
            block.numbers["world"] or (had_world and is_known and block.numbers["image"]) for block, is_known in blocks
        ):
            setattr(cache, HAS_WORLD, True)
        self._row, self._cache, self._weights = rows[0], cache, weights
        return {**rest, "past_key_values": cache}


class PromptCache(DynamicCache):
    """What one call computes, all of it in every layer: a sliding layer's mask does what its window would."""

    def begin(self, other: Cache, start: int, padding: Sequence[int], columns: int) -> None:
        """Take a prompt's beginning over.

        Args:
            other: of which the first row is taken.
            start: column where its prompt begins.
            padding: of each new row, on the left.
            columns: how many there are then, padding included.
        """
        for layer in other.layers:
            own, theirs = _PrefixLayer(), _states(layer)
            own.lazy_initialization(*theirs)
            own.keys, own.values = (_beginning(states[:1, :, start:], padding, columns) for states in theirs)
            self.layers.append(own)

    def activate_past_recording(self) -> None:
        """transformers calls this as assisted decoding begins, which runs a whole prompt on top of what is here."""
        raise ValueError(
            "assisted decoding and prompt lookup cannot go on from a prefix. Leave the PrefixCache out of this call."
        )


class _PrefixLayer(DynamicLayer):
    """Rows of a batch, and beams, share one beginning until they have something of their own."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append."""
        if (repeats := len(key_states) // len(_states(self)[0])) > 1:
            self.batch_repeat_interleave(repeats)
        return super().update(key_states, value_states, *args, **kwargs)


def _states(layer: Any) -> tuple[Float[Tensor, "b h l d"], Float[Tensor, "b h l d"]]:
    return layer.keys, layer.values


def _with_media(inputs: dict[str, Any], kind: str, numbers: list[int]) -> dict[str, Any]:
    """The arguments with media of these numbers only."""

    def chosen(items: Any) -> Any:
        return items[numbers] if isinstance(items, Tensor) else [items[number] for number in numbers]

    rest = {name: value for name, value in inputs.items() if name not in MEDIA[kind]}
    if not numbers:
        encoded = {name: value for name, value in (inputs.get("mm_encoder_outputs") or {}).items() if name != kind}
        return {**rest, "mm_encoder_outputs": encoded}
    rest |= {name: chosen(inputs[name]) for name in MEDIA[kind] if inputs.get(name) is not None}
    encoded = dict(inputs.get("mm_encoder_outputs") or {})
    if encoded.get(kind) is not None:
        encoded[kind] = copy(encoded[kind])
        encoded[kind].pooler_output = chosen(encoded[kind].pooler_output)
    return {**rest, "mm_encoder_outputs": encoded}


def _filled(cache: Any, config: Any) -> int:
    """Columns that every layer has: a call may have been interrupted."""
    if len(cache.layers) < config.get_text_config().num_hidden_layers:
        return 0
    return min(layer.get_seq_length() for layer in cache.layers)


def _beginning(states: Float[Tensor, "1 h l d"], padding: Sequence[int], columns: int) -> Float[Tensor, "_ h c d"]:
    """The first ``columns`` of every row: a view of one row where no row has padding."""
    if not any(padding):
        return states[:, :, :columns]
    rows = states.new_zeros(len(padding), states.shape[1], columns, states.shape[3])
    for row, start in zip(rows, padding, strict=True):
        row[:, start:] = states[0, :, : max(0, columns - start)]
    return rows


def _weights(model: nn.Module) -> list[tuple[int, int]]:
    """Differs once a parameter was replaced or written to. Offloaded ones are replaced in each pass, and left out."""
    return [
        (id(weight), 0 if weight.is_inference() else weight._version)
        for module in model.modules()
        for weight in module._parameters.values()  # parameters() spells names, which takes longer than all the rest
        if weight is not None and not weight.is_meta
    ]
