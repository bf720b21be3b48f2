"""Encoders by name: an explicit table, plus what third parties offer through the entry point ``theworld.encoders``.

A control stands before a colon and the encoder that it is put around, as in ``zeros:cosmos-predict2-vae``.
"""

import warnings
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch

from theworld_encoders.controls import CONTROLS, around
from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec

ENTRY_POINT_GROUP = "theworld.encoders"

DEFAULT_ENCODER = "cosmos-predict2-vae"
"""What a control's name alone is put around."""

_BUILT_IN = {
    "cosmos-predict2-dit": "theworld_encoders.cosmos_dit:CosmosPredict2Dit",
    "cosmos-predict2-vae": "theworld_encoders.cosmos_world:CosmosPredict2World",
    "cosmos1-tokenizer": "theworld_encoders.cosmos1_tokenizer:Cosmos1Tokenizer",
    "dinov3": "theworld_encoders.dinov3:DinoV3",
    "gemma3-siglip": "theworld_encoders.siglip:Gemma3Siglip",
    "siglip": "theworld_encoders.siglip:Siglip",
    "siglip2": "theworld_encoders.siglip:Siglip2",
    "vjepa2": "theworld_encoders.vjepa2:VJepa2",
    "wan21-dit": "theworld_encoders.wan_dit:Wan21Dit",
    "wan22-vae": "theworld_encoders.wan22_vae:Wan22Vae",
}
"""Name to "module:class": text, so that listing the encoders imports none of them."""


def list_encoders() -> list[str]:
    """Every encoder that ``load_encoder`` knows, sorted; controls are listed by ``list_controls``."""
    return sorted({*_BUILT_IN, *_plugins()})


def list_controls() -> list[str]:
    """Every control, sorted: each is a name for ``load_encoder``, alone or before a colon and an encoder's name."""
    return sorted(CONTROLS)


def encoder_class(name: str) -> type[Encoder]:
    """The class behind a registry name.

    Raises:
        EncoderError: the name is unknown (the message lists the known ones), or its plug-in cannot be used.
    """
    control, colon, inner = name.partition(":")
    if control in CONTROLS:
        if inner.partition(":")[0] in CONTROLS:
            raise EncoderError(f"{name!r} puts a control around a control. Use {control}:encoder. {_known(name)}")
        if colon and not _is_encoder(inner):
            raise EncoderError(f"{name!r} puts {control} around {inner!r}, which is no encoder. {_known(name)}")
        return around(CONTROLS[control], encoder_class(inner or DEFAULT_ENCODER), name)
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    if (plugin := _plugins().get(name)) is None:
        raise EncoderError(f"there is no encoder called {name!r}. {_known(name)}")
    return _load(plugin)


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
        name: one of ``list_encoders()`` or ``list_controls()``, or one of the latter before a colon and the former.
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


def _is_encoder(name: str) -> bool:
    return name in _BUILT_IN or name in _plugins()


def _known(name: str) -> str:
    """What there is, and the nearest to ``name``."""
    encoders, controls = list_encoders(), list_controls()
    around_each = [f"{control}:{encoder}" for control in controls for encoder in encoders]
    nearest = get_close_matches(name, [*encoders, *controls, *around_each], n=1)
    return f"Known encoders: {', '.join(encoders)}. Controls, alone or as control:encoder: {', '.join(controls)}." + (
        f" Did you mean {nearest[0]}?" if nearest else ""
    )


def _plugins() -> dict[str, EntryPoint]:
    """Third parties' encoders by name. Ours keep their names: a plug-in cannot change what a saved model means."""
    plugins: dict[str, EntryPoint] = {}
    for plugin in sorted(entry_points(group=ENTRY_POINT_GROUP), key=_distribution):
        if plugin.name in _BUILT_IN or plugin.name in CONTROLS or ":" in plugin.name or plugin.name in plugins:
            taken = "has a colon" if ":" in plugin.name else "is taken"
            warnings.warn(
                f"{_distribution(plugin)} offers an encoder called {plugin.name!r}, a name that {taken}: it is left "
                "out. Ask its authors for another name.",
                stacklevel=3,
            )
        else:
            plugins[plugin.name] = plugin
    return plugins


def _load(plugin: EntryPoint) -> type[Encoder]:
    try:
        loaded = plugin.load()
    except Exception as error:  # other people's code: whatever it raises, its users have to know whose it is
        raise EncoderError(
            f"{plugin.value} of {_distribution(plugin)}, the encoder {plugin.name!r}, cannot be imported "
            f"({type(error).__name__}: {error}). Repair or uninstall {_distribution(plugin)}."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Encoder)):
        raise EncoderError(
            f"{plugin.value} of {_distribution(plugin)}, the encoder {plugin.name!r}, is no subclass of Encoder. "
            "Ask its authors for one."
        )
    return loaded


def _distribution(plugin: EntryPoint) -> str:
    return "an unnamed package" if plugin.dist is None else f"{plugin.dist.name} {plugin.dist.version}"
