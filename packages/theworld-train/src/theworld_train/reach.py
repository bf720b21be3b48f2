"""Every batch's loss depends on every trained weight, if only by zero.

A batch without pictures leaves projectors and towers out. Its loss may then have no gradient at all, and where several
processes work together, those that saw a picture would wait for ever: for the others' part of a gradient, or for a
layer's weights that the others, who have no gradient to take through it, do not gather.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from theworld_train.parts import part_of


def reach_all(model: PreTrainedModel) -> None:
    """Give zero gradients to trained weights that a batch did not use; call it before weights are dealt out.

    They hang on the token embeddings, through which and the language model behind them every batch goes.
    """
    places = [
        (module, name)
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and part_of(f"{path}.{name}") != "language_model"
    ]

    def hook(module: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:
        if not places or not torch.is_grad_enabled():
            return embeddings
        return _Reaching.apply(embeddings, *(getattr(module, name) for module, name in places))  # pyright: ignore[reportReturnType]

    model.get_input_embeddings().register_forward_hook(hook)


class _Reaching(torch.autograd.Function):
    """Embeddings as they are; in the backward pass, zeros that take no memory and add nothing."""

    @staticmethod
    def forward(ctx: Any, embeddings: Float[Tensor, "*b d"], *parameters: Tensor) -> Float[Tensor, "*b d"]:
        ctx.like = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return embeddings.view_as(embeddings)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "*b d"]
    ) -> tuple[Tensor, ...]:
        zeros = {kind: torch.zeros((), dtype=kind[0], device=kind[1]) for kind in {like[1:] for like in ctx.like}}
        return gradient, *(zeros[like[1:]].expand(like[0]) for like in ctx.like)
