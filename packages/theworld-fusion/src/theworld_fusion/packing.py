# pyright: reportArgumentType=false
# transformers annotates its mask functions for single indices, and calls them with tensors of them.
"""Rows that hold several sequences, some with one beginning in common: who sees whom, told by one number a token.

A row is made of pieces, and a piece may have others below it, which go on where it ends: a picture with its tokens
first, and below it every question about it. Pieces stand in depth-first order, so that whoever sees a token stands
between it and the end of the last piece below its own. That place is the token's ``visible_until``; it is the
column-wise form of a mask (Wang et al., FlashMask, arXiv 2410.01359), which serves several whole sequences as well.

Shapes: ``b`` row, ``l`` place in the row.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of row, head, query's and key's place, each a tensor of indices: whether the query sees the key."""

_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")


def packed_masks(
    config: PreTrainedConfig,
    visible_until: Int[Tensor, "b l"],
    position_ids: Int[Tensor, "b l"],
    token_type_ids: Int[Tensor, "b l"] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """The masks of full and of sliding layers, as ``attention_mask`` takes them; the device is never waited for.

    Args:
        config: of the text model, whose attention implementation says what a mask is.
        visible_until: for each token the place behind the last one that sees it.
        position_ids: they count anew in every sequence, and below a shared piece from its end; windows go by them.
        token_type_ids: 1 where neighbours see each other in both directions.
        dtype: of the model, for implementations that add masks.

    Raises:
        ValueError: the attention implementation takes no masks of this kind.
    """
    implementation = config._attn_implementation
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"several sequences in one row need a mask of their own, and {implementation!r} takes none. "
            f"Load the model with attn_implementation as one of: {', '.join(_IMPLEMENTATIONS)}."
        )
    rows, length = visible_until.shape
    sees = packed_mask_function(visible_until, token_type_ids)
    functions = {"full_attention": sees, "sliding_attention": _within(config.sliding_window, position_ids, sees)}
    return {
        kind: ALL_MASK_ATTENTION_FUNCTIONS[implementation](
            batch_size=rows,
            q_length=length,
            kv_length=length,
            mask_function=function,
            attention_mask=None,
            allow_is_causal_skip=False,
            dtype=dtype,
            device=visible_until.device,
        )
        for kind, function in functions.items()
    }


def packed_mask_function(
    visible_until: Int[Tensor, "b l"], token_type_ids: Int[Tensor, "b l"] | None = None
) -> MaskFunction:
    """What full layers see, as transformers and flex attention take it: the token's own sequence up to itself.

    Runs of ``token_type_ids`` 1 are seen whole from inside, as Gemma 3 sees the tokens of a picture.
    """
    if token_type_ids is None:
        blocks = torch.full_like(visible_until, -1)
    else:
        blocks = get_block_sequence_ids_for_mask(token_type_ids, device=visible_until.device)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        block = blocks[row, query]
        return ((key <= query) & (query < visible_until[row, key])) | ((block == blocks[row, key]) & (block >= 0))

    return sees


def _within(window: int, position_ids: Int[Tensor, "b l"], sees: MaskFunction) -> MaskFunction:
    """The same, for keys less than ``window`` positions back: places in the row say nothing of distance."""

    def sees_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(row, head, query, key) & (position_ids[row, query] - position_ids[row, key] < window)

    return sees_near
