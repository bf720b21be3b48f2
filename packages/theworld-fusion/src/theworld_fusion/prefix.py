"""What ``generate`` computed for a prompt, kept for the next prompt that begins alike.

Shapes: ``b`` row, ``h`` key-value head, ``l`` token, ``d`` width of a head.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor
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
        self._cache: Cache | None = None
        self._weights: list[tuple[int, int]] = []

    def begin(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """``generate`` calls this: its arguments with what is known left out, and with a cache that holds it.

        That cache is filled by the call and looked at in the next one. Its beginning is a view of the cache before,
        which nothing writes to: layers grow by concatenation.

        Args:
            inputs: keyword arguments of ``generate``, for ``b`` rows.

        Raises:
            ValueError: an argument cannot go with a prefix, padding is not on the left, or media are missing.
        """
        _check(model, inputs)
        rows, weights = read_rows(model.config, inputs), _weights(model)
        known = self._row if weights == self._weights else None
        rows = [row.settled(known) for row in rows]
        columns = 0
        if known is not None and self._cache is not None:
            columns = common_columns(rows, known, _filled(self._cache, model.config) - known.padding)
        lengths = [max(0, columns - row.padding) for row in rows]
        self.reused = sum(lengths)
        cache = DynamicCache()
        if known is not None and self._cache is not None and self.reused:
            padding = [row.padding for row in rows]
            cache.layers = [_PrefixLayer(layer, known.padding, padding, columns) for layer in self._cache.layers]
        blocks = [
            (block, block.start < length) for row, length in zip(rows, lengths, strict=True) for block in row.blocks
        ]
        rest = dict(inputs)
        for kind in MEDIA:
            if any(is_known and block.numbers[kind] for block, is_known in blocks):
                left = [number for block, is_known in blocks if not is_known for number in block.numbers[kind]]
                rest = _with_media(rest, kind, left)
        had_world = getattr(self._cache, HAS_WORLD, False)
        if any(
            block.numbers["world"] or (had_world and is_known and block.numbers["image"]) for block, is_known in blocks
        ):
            setattr(cache, HAS_WORLD, True)
        self._row, self._cache, self._weights = rows[0], cache, weights
        return {**rest, "past_key_values": cache}


class _PrefixLayer(DynamicLayer):
    """A layer that begins with tokens of another one, and keeps all: a sliding layer's mask does what its window does.

    Args:
        layer: of which the first row is taken.
        start: column where its prompt begins.
        padding: of each row, on the left.
        columns: how many there are at first, padding included.
    """

    def __init__(self, layer: Any, start: int, padding: Sequence[int], columns: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = (
            _beginning(states[:1, :, start:], padding, columns) for states in (layer.keys, layer.values)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; rows of a batch, and beams, share one beginning until they have something of their own."""
        if (repeats := len(key_states) // len(self.keys)) > 1:
            self.batch_repeat_interleave(repeats)
        return super().update(key_states, value_states, *args, **kwargs)

    def activate_past_recording(self) -> None:
        """transformers calls this as assisted decoding begins, which runs the whole prompt on top of what is here."""
        raise ValueError(
            "assisted decoding and prompt lookup cannot begin with a prefix. Leave past_key_values out of this call."
        )


def prefix_length(cache: Any) -> int:
    """Columns that a cache of ``PrefixCache.begin`` was made with, before anything was appended."""
    layer = next(iter(getattr(cache, "layers", ())), None)
    return layer.get_seq_length() if isinstance(layer, _PrefixLayer) else 0


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


def _filled(cache: Cache, config: Any) -> int:
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


def _check(model: Any, inputs: dict[str, Any]) -> None:
    if inputs.get("input_ids") is None or inputs.get("inputs_embeds") is not None:
        raise ValueError("a PrefixCache compares prompts by their ids. Pass input_ids, and no inputs_embeds.")
    if inputs.get("position_ids") is not None:
        raise ValueError("a PrefixCache counts positions itself. Leave position_ids out.")
    if inputs.get("use_cache") is False:
        raise ValueError("use_cache is False, and past_key_values is a PrefixCache. Leave one of them out.")
    settings = inputs.get("generation_config") or model.generation_config
    if inputs.get("prefill_chunk_size") or settings.prefill_chunk_size:
        raise ValueError(
            "prefill_chunk_size cuts through pictures, and what was cut would be kept. Leave it out with a PrefixCache."
        )


def _weights(model: Any) -> list[tuple[int, int]]:
    """Differs once a parameter was replaced or written to. Offloaded ones are replaced in each pass, and left out."""
    return [
        (id(weight), 0 if weight.is_inference() else weight._version)
        for weight in model.parameters()
        if not weight.is_meta
    ]
