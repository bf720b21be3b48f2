"""The training loss: cross entropy of each label, in nats, given what stands before it.

Of 1,100 tokens some 32 carry a label, and a logit for each of Gemma's 262,208 words at all of them takes 3.3 GB.
``supervised_loss`` therefore asks the LM head about the labelled positions alone, so many at a time.

Shapes: ``b`` row, ``l`` sequence, ``d`` model width, ``v`` vocabulary, ``n`` positions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers.loss.loss_utils import ForCausalLMLoss

from theworld_tokens import IGNORE_INDEX

CHUNK = 128
"""Positions at a time: 130 MB of bfloat16 logits and their gradients, and few enough products to keep a device busy."""
BLOCK = 16
"""Of them, those that are in float32 at a time: 17 MB, which caches and allocators keep at hand."""


# Compilers see no fixed number of positions in these: left to them, each number would be compiled anew.
@torch.compiler.disable
def supervised(
    labels: Int[Tensor, "b k"], shape: Sequence[int], shift_labels: Int[Tensor, "b k"] | None = None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The places whose logits the loss is of, in ``b`` times ``l``, and the words that it wants there.

    Args:
        shape: ``b, l`` of the hidden states.
        shift_labels: as of ``causal_lm_loss``.

    Raises:
        ValueError: there is not one label for each position.
    """
    targets = _shift(labels) if shift_labels is None else shift_labels
    if targets.shape != torch.Size(shape):
        raise ValueError(
            f"labels have shape {tuple(targets.shape)}, and the prompt {tuple(shape)}. Give one label for each token."
        )
    targets = targets.flatten()
    # The one place that waits for the device, once a step: without it, every position would have to be computed.
    places = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    return places, targets[places]


@torch.compiler.disable
def supervised_loss(
    rows: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    head: Callable[[Tensor], Tensor],
    *,
    num_items_in_batch: Tensor | int | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """``causal_lm_loss`` of all logits, without making them: in memory that one chunk's logits need.

    Without any label the loss is zero, and so are the gradients; they reach all that the head and the hidden states
    depend on, so that no process of several waits for them.

    Args:
        rows: hidden states at the places that ``supervised`` finds, and ``targets`` the words.
        head: from hidden states ``[n, d]`` to logits ``[n, v]``. Where it is frozen, its gradient is not computed.
        num_items_in_batch: as of ``causal_lm_loss``.
        chunk: with more positions than this, logits are computed a second time for their gradients.
    """
    run = partial(checkpoint, _sum_of_chunk, use_reentrant=False) if len(rows) > chunk else _sum_of_chunk
    # An empty tensor splits into one empty piece.
    pieces = zip(rows.split(chunk), targets.split(chunk), strict=True)
    total = torch.stack([run(head, *piece) for piece in pieces]).sum()
    if num_items_in_batch is None:
        return total / max(len(rows), 1)
    return total / _count(num_items_in_batch).to(total.device)


def causal_lm_loss(
    logits: Float[Tensor, "b l v"],
    labels: Int[Tensor, "b l"],
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Int[Tensor, "b l"] | None = None,
    **kwargs: Any,
) -> Float[Tensor, ""]:
    """transformers' mean cross entropy, but zero instead of NaN without any label; ``IGNORE_INDEX`` carries no loss.

    Args:
        num_items_in_batch: what the sum is divided by, where a step spans several batches; default: the labels here.
        shift_labels: labels that are shifted already; then ``labels`` is not looked at.
    """
    if num_items_in_batch is None:
        num_items_in_batch = ((_shift(labels) if shift_labels is None else shift_labels) != IGNORE_INDEX).sum()
    count = _count(num_items_in_batch)
    return ForCausalLMLoss(logits, labels, vocab_size, count, IGNORE_INDEX, shift_labels, **kwargs)


def _shift(labels: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    """To each position the label of the next one."""
    return torch.nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]


def _count(items: Tensor | int) -> Tensor:
    """What the sum is divided by: never zero."""
    return torch.as_tensor(items).clamp(min=1)


def _sum_of_chunk(
    head: Callable[[Tensor], Tensor], rows: Float[Tensor, "n d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    logits = head(rows)
    return _CrossEntropy.apply(logits, targets.to(logits.device)).sum()


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy of each row in float32, beside the logits in what a few rows take; torch's own takes it for all.

    It keeps the logits as they came for its gradient, and works in place on a float32 copy of so many rows at a time.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        blocks = map(_losses_of_block, logits.split(BLOCK), targets.unsqueeze(-1).split(BLOCK))
        losses, tops, totals = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        ctx.save_for_backward(logits, targets.unsqueeze(-1), tops, totals)
        return losses

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's has any number of arguments
        ctx: Any, gradient: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n v"], None]:
        logits, *saved = ctx.saved_tensors
        slopes = torch.empty_like(logits)
        given = (slopes, logits, *saved, gradient.unsqueeze(-1))
        for block in zip(*(one.split(BLOCK) for one in given), strict=True):
            _write_slopes(*block)
        return slopes, None


def _losses_of_block(
    rows: Float[Tensor, "k v"], words: Int[Tensor, "k 1"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k 1"], Float[Tensor, "k 1"]]:
    """And what their gradient needs: the largest logit, and the sum of exponentials relative to it."""
    values = rows.to(torch.float32, copy=True)
    top = values.amax(-1, keepdim=True)
    chosen = values.gather(-1, words) - top
    total = values.sub_(top).exp_().sum(-1, keepdim=True)
    return (total.log() - chosen).squeeze(-1), top, total


def _write_slopes(
    slopes: Float[Tensor, "k v"],
    rows: Float[Tensor, "k v"],
    words: Int[Tensor, "k 1"],
    top: Float[Tensor, "k 1"],
    total: Float[Tensor, "k 1"],
    weight: Float[Tensor, "k 1"],
) -> None:
    values = slopes if slopes.dtype == torch.float32 else torch.empty_like(slopes, dtype=torch.float32)
    values.copy_(rows).sub_(top).exp_().mul_(weight / total).scatter_add_(-1, words, -weight)
    slopes.copy_(values)
