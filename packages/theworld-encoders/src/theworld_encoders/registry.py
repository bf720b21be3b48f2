"""Encoders by name: an explicit table, plus what third parties offer through the entry point ``theworld.encoders``."""

from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch

from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec

ENTRY_POINT_GROUP = "theworld.encoders"

_BUILT_IN = {
    "cosmos-predict2-dit": "theworld_encoders.cosmos_dit:CosmosPredict2Dit",
    "cosmos-predict2-vae": "theworld_encoders.cosmos_world:CosmosPredict2World",
    "dinov3": "theworld_encoders.dinov3:DinoV3",
    "gemma3-siglip": "theworld_encoders.siglip:Gemma3Siglip",
    "siglip": "theworld_encoders.siglip:Siglip",
    "siglip2": "theworld_encoders.siglip:Siglip2",
    "vjepa2": "theworld_encoders.vjepa2:VJepa2",
    "wan21-dit": "theworld_encoders.wan_dit:Wan21Dit",
}
"""Name to "module:class": text, so that listing the encoders imports none of them."""


def list_encoders() -> list[str]:
    """Every name that ``load_encoder`` knows, sorted."""
    return sorted(_table())


def encoder_class(name: str) -> type[Encoder]:
    """The class behind a registry name.

    Raises:
        EncoderError: the name is unknown; the message lists the known ones.
    """
    table = _table()
    if name not in table:
        raise EncoderError(f"there is no encoder called {name!r}. Known encoders: {', '.join(sorted(table))}.")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def spec_of(name: str) -> EncoderSpec:
    """The published numbers of an encoder, without its weights or the library that they need."""
    return encoder_class(name).published


def load_encoder(
    name: str,
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    frame_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **settings: Any,
) -> Encoder:
    """Load an encoder's weights by its registry name, frozen.

    Args:
        name: one of ``list_encoders()``.
        source: a folder or hub id with the published layout; default: the published repository at its pinned revision.
        frame_size: height and width of its input in pixels; default: the published one.
        settings: the encoder's own, e.g. ``block=20, noise_level=0.0`` of ``wan21-dit``.

    Raises:
        EncoderError: unknown name or setting, missing extra (the message has the pip command), or unusable weights.
    """
    load = encoder_class(name).from_pretrained
    accepted = signature(load).parameters.values()
    if settings and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted):
        raise EncoderError(f"{name} has no setting {', '.join(settings)}. It has none of its own.")
    return load(source, revision=revision, frame_size=frame_size, dtype=dtype, device=device, **settings)


def _table() -> dict[str, str]:
    plugins = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {**plugins, **_BUILT_IN}
