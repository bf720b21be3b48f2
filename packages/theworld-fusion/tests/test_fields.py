"""Every field of the configuration changes something that can be observed, or is refused."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers import Gemma3Config, PreTrainedConfig

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, TheWorldProcessor, WorldEncoderConfig
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

CHAT = chat(picture(0), clip(1))

PROMPT: dict[str, Any] = {
    "world_fusion": "none",
    "world_tokens_per_item": 16,
    "world_placement": "beside_image",
    "world_attention": "causal",
    "num_world_steps": 1,
}
"""Fields whose change shows in the prompt: ids or bidirectional runs."""

LOGITS: dict[str, Any] = {
    "world_patch": 1,
    "world_projector": "linear",
}
"""Fields whose change leaves the prompt as it is and shows in the logits."""

REFUSED: dict[str, tuple[Any, str]] = {
    "max_world_frames": (2, "a clip makes 3 latent frames; max_world_frames is 2"),
    "world_start_token_id": (9, "world_start_token_id is 9, the tokenizer has"),
    "world_end_token_id": (9, "world_end_token_id is 9, the tokenizer has"),
    "world_token_id": (9, "world_token_id is 9, the tokenizer has"),
}
"""Fields whose change does not go with the rest of the toy pair."""


def own_fields(config: type[PreTrainedConfig], base: type[PreTrainedConfig]) -> set[str]:
    return {field.name for field in fields(config)} - {field.name for field in fields(base)}  # pyright: ignore


def observe(pair: Pair) -> tuple[dict[str, Any], torch.Tensor]:
    model, processor = pair
    inputs = encode(processor, CHAT)
    with torch.no_grad():
        return inputs, model(**inputs).logits


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def test_every_field_is_below() -> None:
    assert own_fields(TheWorldConfig, Gemma3Config) == {*PROMPT, *LOGITS, *REFUSED, "world_config"}
    assert own_fields(WorldEncoderConfig, PreTrainedConfig) == {"encoder", "encoder_config", "frame_size"}


@pytest.mark.parametrize("field", PROMPT)
def test_a_field_that_shows_in_the_prompt(build: Callable[..., Pair], pair: Pair, field: str) -> None:
    wanted, before = observe(pair)
    inputs, after = observe(build(**{field: PROMPT[field]}))
    assert not all(same(inputs[key], wanted[key]) for key in ("input_ids", "token_type_ids"))
    assert not same(after, before)


@pytest.mark.parametrize("field", LOGITS)
def test_a_field_that_shows_in_the_logits(build: Callable[..., Pair], pair: Pair, field: str) -> None:
    wanted, before = observe(pair)
    inputs, after = observe(build(**{field: LOGITS[field]}))
    assert all(same(inputs[key], wanted[key]) for key in ("input_ids", "token_type_ids"))
    assert not same(after, before)


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_is_refused(build: Callable[..., Pair], field: str) -> None:
    value, message = REFUSED[field]
    with pytest.raises(ValueError, match=message):
        observe(build(**{field: value}))


def test_the_encoders_fields(build: Callable[..., Pair], pair: Pair) -> None:
    pixels = observe(build(frame_size=64))[0]["pixel_values_world"]
    assert [tuple(item.shape[-2:]) for item in pixels] == [(64, 64), (64, 64)]
    assert [tuple(item.shape[-2:]) for item in observe(pair)[0]["pixel_values_world"]] == [(48, 48), (48, 48)]
    with pytest.raises(ValueError, match="cosmos-predict2-vae"):
        WorldEncoderConfig(encoder="cosmos")
    with pytest.raises(ValueError, match="Choose that with encoder="):
        build(world_config={"frame_size": 64})
    config = TheWorldConfig.from_dict(pair[0].config.to_dict())
    config.world_config.encoder_config["base_dim"] *= 2
    wider, narrower = TheWorldForConditionalGeneration(config).model.world_encoder, pair[0].model.world_encoder
    assert sum(map(torch.numel, wider.parameters())) > sum(map(torch.numel, narrower.parameters()))
