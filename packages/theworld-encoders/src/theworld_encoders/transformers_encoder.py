"""What encoders out of transformers share: settings that it checks, sdpa attention, its folders' layout."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub.errors import StrictDataclassError

from theworld_encoders.checkpoint import MODEL, find_component, load_exactly, read_config, read_tensors
from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TransformersEncoder(Encoder):
    """One of transformers' own models; a subclass names it and says how pixels go through it."""

    published_config: ClassVar[dict[str, Any]]
    """The published ``config.json`` where it differs from transformers' defaults; an empty configuration means it."""
    model_types: ClassVar[tuple[str, ...]]
    """What ``config.json`` may call itself."""

    @property
    @abstractmethod
    def stored_prefixes(self) -> tuple[str, ...]:
        """Where names of the checkpoint's tensors start that this encoder holds."""

    def own_name(self, stored: str) -> str:
        """This encoder's name of a tensor of the checkpoint."""
        return stored

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self: ...

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> Self:
        """As every encoder's; ``settings`` replace entries of the configuration."""
        if source is None:
            source, revision = cls.published.repo_id, revision or cls.published.revision
        folder = find_component(source, cls.published.subfolder, revision)
        config = {**read_config(folder, *cls.model_types, key="model_type"), **settings}
        encoder = cls.from_config(config, frame_size=frame_size)
        stored = read_tensors(folder, encoder.stored_prefixes, MODEL)
        load_exactly(encoder, {encoder.own_name(key): tensor for key, tensor in stored.items()}, folder)
        return encoder.to(device=device, dtype=dtype)


@contextmanager
def needs_transformers(name: str) -> Iterator[None]:
    """For an import inside: without transformers the encoder ``name`` says which extra brings it.

    Raises:
        EncoderError: transformers is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise EncoderError(f'{name} needs transformers. Install it: pip install "theworld-encoders[vision]"') from error


def configuration(kind: type, config: dict[str, Any], name: str) -> Any:
    """transformers' own configuration object of these settings, with sdpa attention.

    Raises:
        EncoderError: transformers refuses a setting.
    """
    try:
        return kind(**{**config, "attn_implementation": "sdpa"})
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EncoderError(f"{name} cannot use its config.json ({reason}). Fetch the checkpoint again.") from error
