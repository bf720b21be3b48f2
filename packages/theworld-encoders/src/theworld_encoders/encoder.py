"""The interface that every encoder has, whatever library its weights come from."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.checkpoint import find_component, read_config
from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec


class Encoder(nn.Module, ABC):
    """Pixels in, a grid of features out. Frozen and in eval mode unless asked.

    Shapes: ``m`` items, ``t`` frames, ``h w`` pixels; ``t' r s`` feature grid, ``c`` width.
    """

    published: ClassVar[EncoderSpec]
    """The numbers of the published weights; an instance's own are in ``spec``."""

    def __init__(self, spec: EncoderSpec, config: dict[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        """The encoder's own architecture, as its publisher's ``config.json`` has it: ``from_config`` rebuilds it."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "Encoder":
        """Random weights. ``frame_size`` in pixels replaces the published one."""

    @classmethod
    @abstractmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "Encoder":
        """Weights from a folder or hub id (default: the published one) with exactly the published layout.

        Raises:
            EncoderError: the folder is no such checkpoint, or its weights do not fit its configuration.
        """

    @classmethod
    def config_of(cls, source: str | Path, *, revision: str | None = None, **settings: Any) -> dict[str, Any]:
        """The ``config`` of a checkpoint, for what needs none of its weights (see ``theworld_encoders.controls``).

        ``settings`` are the encoder's own, as in ``from_pretrained``.

        Raises:
            EncoderError: there is no such checkpoint, or its configuration cannot be read.
        """
        return {**read_config(cls.folder_of(source, revision, weights=False)), **settings}

    @classmethod
    def folder_of(cls, source: str | Path | None, revision: str | None, *, weights: bool = True) -> Path:
        """Where a checkpoint lies on this machine; without a ``source``, the published one at its pinned revision.

        Raises:
            EncoderError: there is no such checkpoint.
        """
        if source is None:
            source, revision = cls.published.repo_id, revision or cls.published.revision
        return find_component(source, cls.published.subfolder, revision, weights=weights)

    @abstractmethod
    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        """The features themselves; ``t``, ``h`` and ``w`` obey the spec. Call the module instead."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Fill every parameter at random and every buffer from the configuration."""

    def forward(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        """Encode items of one shape; autograd is off while all parameters are frozen.

        Raises:
            EncoderError: the clip's length or size breaks the spec's rules.
        """
        frames, height, width = pixels.shape[1], *pixels.shape[3:]
        if frames != self.spec.fit_frames(frames):
            raise EncoderError(
                f"{self.spec.name} cannot encode {frames} frames. "
                f"Use {self.spec.frame_rule}, e.g. {self.spec.fit_frames(frames)}."
            )
        self.spec.grid(frames, height, width)
        trained = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            # Kernels are chosen by memory layout, and differ in the last bits: the same pixels give the same features.
            return self.encode(pixels.contiguous())

    def encode_items(self, items: Sequence[Float[Tensor, "_ 3 _ _"]]) -> list[Float[Tensor, "_ _ _ c"]]:
        """Encode items of different lengths, each shape as one batch; results come in the items' order."""
        return by_shape(self, items)

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode when the model around it trains: some draw positions at random then."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def freeze(self) -> "Encoder":
        """No parameter is trained from here on; returns self."""
        return self.requires_grad_(False).eval()


def by_shape(function: Callable[[Tensor], Tensor], items: Sequence[Tensor]) -> list[Tensor]:
    """Apply ``function`` to items of different shapes, each shape as one batch; results come in the items' order."""
    groups: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.shape].append(index)
    results: dict[int, Tensor] = {}
    for indices in groups.values():
        results.update(zip(indices, function(torch.stack([items[index] for index in indices])), strict=True))
    return [results[index] for index in range(len(items))]
