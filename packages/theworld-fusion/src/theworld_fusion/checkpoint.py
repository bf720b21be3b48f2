# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# transformers annotates from_pretrained otherwise than it is.
"""Loading what ``save_pretrained`` wrote, with errors of one line; the Auto classes load the same."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from theworld_encoders.errors import first_line
from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.errors import CheckpointError
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration
from theworld_fusion.placement import accept_any_device, resolve
from theworld_fusion.processing_theworld import TheWorldProcessor

_HINT = "Give a TheWorld checkpoint, or build one from two others with assemble(vlm, world)."


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attn_implementation: str | dict[str, str] | None = None,
) -> TheWorldForConditionalGeneration:
    """A whole model from a folder or hub id.

    Args:
        device_map: as in ``from_pretrained``, or the name of a placement: ``single``, ``split`` or ``offload``.
        attn_implementation: as in ``from_pretrained``: ``sdpa`` (the default), ``eager``, or ``flex_attention``, which
            needs no dense masks and on a CPU has no backward pass; of one part, e.g. ``{"text_config": ...}``.

    Raises:
        CheckpointError: there is no such checkpoint, it is of another kind, some of its weights are not there, or they
            do not fit where ``device_map`` puts them.
    """
    config = TheWorldConfig.from_dict(read_config(source, "theworld", _HINT, revision))
    places = resolve(device_map, config, dtype)
    try:
        model, info = TheWorldForConditionalGeneration.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            device_map=places,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source} has no readable weights ({first_line(error)}). Fetch it again.") from error
    check_loading(source, info)
    accept_any_device(model, device_map)
    return model


def load_processor(source: str | Path, *, revision: str | None = None) -> TheWorldProcessor:
    """The processor of a checkpoint, with the PIL image processor, for reproducible pixels.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of another kind.
    """
    read_config(source, "theworld", _HINT, revision)
    try:
        return TheWorldProcessor.from_pretrained(source, revision=revision, backend="pil")
    except OSError as error:
        raise CheckpointError(f"{source} has no readable processor ({first_line(error)}). Fetch it again.") from error


def read_config(source: str | Path, model_type: str, hint: str, revision: str | None = None) -> dict[str, Any]:
    """The ``config.json`` of a folder or hub id, which has to be of ``model_type``.

    Raises:
        CheckpointError: it is not there, or of another type; the message ends with ``hint``.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except OSError as error:
        raise CheckpointError(
            f"{source} is no checkpoint here and the hub did not give it ({first_line(error)}). "
            "Check the path or name, the network, and for a gated repository your token and its terms."
        ) from error
    if config.get("model_type") != model_type:
        found = f"a checkpoint of type {config['model_type']}" if config.get("model_type") else "no checkpoint"
        raise CheckpointError(f"{source} is {found}, not of type {model_type}. {hint}")
    return config


def check_loading(source: str | Path, info: dict[str, Any], new: tuple[str, ...] = ()) -> None:
    """Refuse a model in which any weight was not loaded, save those whose names start with one of ``new``.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape; the message names the first.
    """
    problems = {
        "missing": [key for key in info["missing_keys"] if not key.startswith(new)],
        "unexpected": list(info["unexpected_keys"]),
        "of another shape": [str(key) for key in info["mismatched_keys"]],
    }
    for kind, keys in problems.items():
        if keys:
            raise CheckpointError(
                f"{source}: {len(keys)} weights are {kind}, e.g. {min(keys)}. Fetch the checkpoint again."
            )
