"""Towers that a run need not have on its device, because caches hold their features: they rest in host memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter


class Resting(nn.Module):
    """In the place of a module that is hidden from its parent: nobody moves it, deals it out or counts its weights.

    Once it is needed after all, it takes its place again, on ``device``, and stays.
    """

    hidden: nn.Module
    parent: nn.Module
    name: str
    device: torch.device

    def __init__(self, parent: nn.Module, name: str, device: torch.device) -> None:
        super().__init__()
        # Past nn.Module's own way to set attributes, which would make children of both.
        self.__dict__ |= {"hidden": getattr(parent, name), "parent": parent, "name": name, "device": device}
        setattr(parent, name, self)

    def wake(self) -> nn.Module:
        """The module, in its place again."""
        module = self.hidden.to(self.device).train(self.training)
        setattr(self.parent, self.name, module)
        return module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.wake()(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The module's; who asks is about to use it. Its parent does not ask."""
        return self.wake().parameters(recurse)


def lay_aside(parent: nn.Module, name: str, device: torch.device) -> None:
    """Let a frozen part of ``parent`` rest until it is used; then it is brought to ``device``."""
    Resting(parent, name, device)
