"""What a piece of work asks of a device, counted where torch hands out its operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")
"""Operators whose answer the host waits for."""


class Counter(TorchDispatchMode):
    """Operators by name; products of weights that became batched; weights read by convolutions and norms.

    Args:
        weights: parameters; a product with one of them, or with a view of one, is looked at.
    """

    def __init__(self, weights: list[Tensor] | None = None) -> None:
        super().__init__()
        self.operators: dict[str, int] = {}
        self.weight_bmm: list[tuple[int, ...]] = []
        self.read: dict[tuple[int, int], int] = {}
        """Elements of each view of a weight that was an argument, by address and number of elements."""
        self._weights = {one.untyped_storage()._cdata for one in weights or []}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operators[name] = self.operators.get(name, 0) + 1
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        held = [one for one in tensors if one.untyped_storage()._cdata in self._weights]
        if name in ("bmm", "baddbmm") and held:
            self.weight_bmm.append(tuple(held[0].shape))
        if not (func.is_view or name in ("detach", "alias")):
            self.read |= {(one.data_ptr(), one.numel()): one.numel() for one in held}
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.operators.values())

    @property
    def syncs(self) -> int:
        return sum(count for name, count in self.operators.items() if name.startswith(SYNCS))


def count(work: Callable[[], Any], weights: list[Tensor] | None = None, grad: bool = False) -> Counter:
    """``work`` under a counter; without gradients unless asked, and never in inference mode, which hides operators."""
    counter = Counter(weights)
    with torch.set_grad_enabled(grad), counter:
        work()
    return counter
