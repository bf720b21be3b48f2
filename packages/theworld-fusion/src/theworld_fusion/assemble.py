# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# transformers annotates from_pretrained and sub-configurations otherwise than they are.
"""Two published checkpoints to one model: a Gemma 3 VLM and a world model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3Config, Gemma3Processor

from theworld_encoders import Encoder, load_encoder, spec_of
from theworld_fusion.checkpoint import check_loading, read_config
from theworld_fusion.configuration_theworld import TheWorldConfig, WorldEncoderConfig, unknown_field
from theworld_fusion.errors import CheckpointError
from theworld_fusion.hub import commit_of
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration
from theworld_fusion.placement import accept_any_device, resolve
from theworld_fusion.processing_theworld import TheWorldProcessor
from theworld_tokens import TokenLayout


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The call of ``assemble`` that made a model; what adapters are put onto. Sources are folders or hub ids."""

    vlm: str
    world: str | None
    encoder: str
    frame_size: int | None
    num_frames: int
    revision: str | None
    """The commit that was read, where the hub told it."""
    world_revision: str | None
    overrides: dict[str, Any]
    encoder_settings: dict[str, Any] = field(default_factory=dict)


_TOKEN_IDS = {
    "world_start_token_id": "start_of_world",
    "world_end_token_id": "end_of_world",
    "world_token_id": "world_soft_token",
}
"""Fields of the configuration, and of the tokenizer's layout."""

NEW_MODULES = ("model.world_projector.", "model.world_gate.", "model.world_encoder.registers")
"""What no published checkpoint holds: it starts at random and is always trained."""


def assemble(
    vlm: str | Path,
    world: str | Path | None = None,
    *,
    encoder: str = "cosmos-predict2-vae",
    frame_size: int | None = None,
    encoder_settings: dict[str, Any] | None = None,
    num_frames: int = 13,
    revision: str | None = None,
    world_revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    **overrides: Any,
) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """Build the fused model and its processor. The projector is new and has to be trained.

    Args:
        vlm: folder or hub id of a Gemma 3 VLM, e.g. ``google/gemma-3-4b-it``.
        world: folder or hub id of the world model; default: the encoder's published repository.
        encoder: registry name of the encoder that reads ``world``.
        frame_size: the encoder's input side in pixels; default: the published one.
        encoder_settings: the encoder's own, e.g. ``{"block": 20, "noise_level": 0.0}`` of ``wan21-dit``.
        num_frames: frames that the processor samples from a video file.
        revision, world_revision: commits or tags of the two, on the hub.
        dtype: as in ``from_pretrained``.
        device_map: as there, or the name of a placement that keeps all weights in memory, e.g. ``split`` over
            accelerators.
        overrides: fields of ``TheWorldConfig``, e.g. ``world_tokens_per_item=256``.

    Raises:
        CheckpointError: ``vlm`` is no Gemma 3 checkpoint, or its weights do not fill the model, or do not fit.
        EncoderError: the encoder is unknown or ``world`` is not its checkpoint.
        ValueError: an override is unknown (the message has the nearest known name), or differs from what the parts say.
    """
    _check_overrides(overrides)
    vlm_config, processor = load_vlm(vlm, revision)
    settings = dict(encoder_settings or {})
    if spec_of(encoder).predicts_future and overrides.get("num_world_steps"):
        settings["num_future_frames"] = overrides["num_world_steps"]
    world_encoder = load_encoder(encoder, world, revision=world_revision, frame_size=frame_size, **settings)
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    config = TheWorldConfig(
        **{
            **{key: value for key, value in vlm_config.to_dict().items() if key not in ("model_type", "architectures")},
            "world_config": WorldEncoderConfig(
                encoder=encoder, encoder_config=world_encoder.config, frame_size=world_encoder.spec.frame_size
            ),
            **{name: getattr(layout, token) for name, token in _TOKEN_IDS.items()},
            **overrides,
        }
    )
    for name, token in _TOKEN_IDS.items():
        if (wanted := getattr(config, name)) != (found := getattr(layout, token)):
            raise ValueError(f"{name} is {wanted}, the tokenizer has {found}. Leave it out: the tokenizer is asked.")
    rows, highest = config.text_config.vocab_size, max(layout.to_dict().values())
    if highest >= rows:
        raise CheckpointError(
            f"{vlm} has {rows} embedding rows, but world tokens need row {highest}. Use a Gemma 3 VLM with spare rows."
        )
    places = resolve(device_map, config, dtype)
    with _no_load_report():
        model, info = TheWorldForConditionalGeneration.from_pretrained(
            vlm, config=config, revision=revision, dtype=dtype, device_map=places, output_loading_info=True
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointError(
            f"{vlm} does not fit into memory by device_map={device_map!r}, and a model is assembled in memory. "
            "Assemble it on a larger machine, save_pretrained it, and load it here with load_model."
        )
    check_loading(vlm, info, new=("model.world_encoder.", *NEW_MODULES))
    if config.world_fusion != "none":
        _fill_world(model, world_encoder)
    accept_any_device(model, device_map)
    model.assembly = Assembly(
        vlm=str(vlm),
        world=None if world is None else str(world),
        encoder=encoder,
        frame_size=frame_size,
        num_frames=num_frames,
        revision=commit_of(vlm, revision) or revision,
        world_revision=world_revision,
        overrides=overrides,
        encoder_settings=encoder_settings or {},
    )
    return model, TheWorldProcessor.from_config(config, processor, num_frames=num_frames)


def load_vlm(vlm: str | Path, revision: str | None = None) -> tuple[Gemma3Config, Gemma3Processor]:
    """Configuration and processor of a Gemma 3 VLM; the image processor is the PIL one, for reproducible pixels.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of another kind.
    """
    config = read_config(vlm, "gemma3", "Give a multimodal Gemma 3 checkpoint, e.g. google/gemma-3-4b-it.", revision)
    return Gemma3Config.from_dict(config), Gemma3Processor.from_pretrained(vlm, revision=revision, backend="pil")


def _check_overrides(overrides: dict[str, Any]) -> None:
    known = {field.name for field in fields(TheWorldConfig)}
    for name in overrides:
        if name not in known:
            raise unknown_field(name)
    if "world_config" in overrides:
        raise ValueError("world_config is made from the encoder. Choose that with encoder=, world= and frame_size=.")


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from logging that the world modules are new: here they are, and the rest is checked below."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)


@torch.no_grad()
def _fill_world(model: TheWorldForConditionalGeneration, encoder: Encoder) -> None:
    """The published encoder's weights, and a projector that starts at the scale of this VLM's embeddings."""
    loaded = dict(encoder.named_parameters())
    for name, parameter in model.model.world_encoder.named_parameters():
        parameter.copy_(loaded[name])
    embeddings = model.get_input_embeddings().weight
    scale = embeddings.float().pow(2).mean().sqrt() * embeddings.shape[1] ** 0.5
    model.model.world_projector.match_scale(float(scale))
