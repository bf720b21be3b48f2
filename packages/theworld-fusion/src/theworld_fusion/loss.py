"""The training loss: transformers' own, except that a batch without any label has loss zero instead of NaN."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from theworld_tokens import IGNORE_INDEX


def causal_lm_loss(
    logits: Float[Tensor, "b l v"],
    labels: Int[Tensor, "b l"],
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Int[Tensor, "b l"] | None = None,
    **kwargs: Any,
) -> Float[Tensor, ""]:
    """Mean cross entropy of each label given what stands before it, in nats; ``IGNORE_INDEX`` carries none.

    Args:
        num_items_in_batch: what the sum is divided by, where a step spans several batches; default: the labels here.
        shift_labels: labels that are shifted already; then ``labels`` is not looked at.
    """
    if num_items_in_batch is None:
        counted = labels[..., 1:] if shift_labels is None else shift_labels
        num_items_in_batch = (counted != IGNORE_INDEX).sum()
    count = torch.as_tensor(num_items_in_batch).clamp(min=1)
    return ForCausalLMLoss(logits, labels, vocab_size, count, IGNORE_INDEX, shift_labels, **kwargs)
