"""Predicted frames in the fused model, and diffusion transformers as its encoder: counted, saved, generated with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from theworld_encoders.testing import make_tiny_dit_folder
from theworld_encoders.testing_vision import make_tiny_vjepa2_folder
from theworld_fusion import (
    TheWorldForConditionalGeneration,
    TheWorldProcessor,
    assemble,
    load_adapter,
    save_adapter,
)
from theworld_fusion.testing import TINY_WORLD, chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

CHATS = [chat(picture(0), clip(1, 5)), chat(text="Hello"), chat(clip(2, 5))]


@pytest.fixture(scope="module")
def future(build: Callable[..., Pair]) -> Pair:
    """Not to be changed."""
    return build(num_world_steps=2)


def logits(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def greedy(model: torch.nn.Module, inputs: dict, **kwargs: object) -> torch.Tensor:
    new = model.generate(**inputs, do_sample=False, max_new_tokens=6, **kwargs)  # pyright: ignore
    return new[:, inputs["input_ids"].shape[1] :]


def test_predicted_frames_have_slots_and_follow_the_observed_ones(future: Pair, pair: Pair) -> None:
    model, processor = future
    inputs = encode(processor, CHATS)
    assert (inputs["input_ids"] == model.config.world_token_id).sum(1).tolist() == [3 * 9 + 4 * 9, 0, 4 * 9]
    features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    now = pair[0].get_world_features(inputs["pixel_values_world"]).last_hidden_state
    assert [len(item) for item in features] == [3, 4, 4]
    for item, observed in zip(features, now, strict=True):
        assert torch.equal(item[:-2], observed)
        assert item[-2:].isfinite().all()
    rest = {key: value for key, value in inputs.items() if key != "pixel_values_world"}
    assert torch.equal(logits(model, {**rest, "world_features": features}), logits(model, inputs))


def test_without_a_future_no_transformer_is_held(pair: Pair) -> None:
    assert not [name for name, _ in pair[0].named_parameters() if "predictor" in name]


def test_generation(future: Pair) -> None:
    model, processor = future
    together = greedy(model, encode(processor, CHATS))
    for row, messages in enumerate(CHATS):
        single = encode(processor, messages)
        answer = greedy(model, single)[0]
        assert together[row, : len(answer)].tolist() == answer.tolist()
        assert torch.equal(greedy(model, single, use_cache=False)[0], answer)


def test_saved_is_loaded(future: Pair, tmp_path: Path) -> None:
    model, processor = future
    wanted = logits(model, encode(processor, CHATS))
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    save_adapter(model, tmp_path / "adapter")
    whole = TheWorldForConditionalGeneration.from_pretrained(tmp_path / "whole")
    for loaded, its_processor in (
        (whole, TheWorldProcessor.from_pretrained(tmp_path / "whole")),
        load_adapter(tmp_path / "adapter"),
    ):
        assert its_processor.num_world_steps == 2
        torch.testing.assert_close(logits(loaded, encode(its_processor, CHATS)), wanted, rtol=0, atol=1e-5)


def test_the_limit_counts_predicted_frames(build: Callable[..., Pair]) -> None:
    _, processor = build(num_world_steps=2, max_world_frames=4)
    encode(processor, chat(clip(1, 5)))
    with pytest.raises(ValueError, match=r"makes 5 latent frames; max_world_frames is 4\. Give at most 5"):
        encode(processor, chat(clip(1, 9)))


def test_gated_fusion_sees_the_future(build: Callable[..., Pair]) -> None:
    model, processor = build(num_world_steps=2, world_fusion="gated")
    inputs = encode(processor, CHATS[2])
    features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    now = model.get_world_features(world_features=[item[:-2] for item in features]).pooler_output
    assert not torch.allclose(model.get_world_features(world_features=features).pooler_output[0], now[0])


def test_any_encoder_that_predicts_will_do(folders: tuple[Path, Path], tmp_path: Path) -> None:
    world = make_tiny_vjepa2_folder(tmp_path / "world")
    settings = {**TINY_WORLD, "frame_size": None, "encoder": "vjepa2"}
    model, processor = assemble(folders[0], world, num_world_steps=2, **settings)
    inputs = encode(processor, CHATS[2])
    features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    assert [len(item) for item in features] == [3 + 2]  # pairs of six frames, the last one repeated
    assert greedy(model, inputs).shape == (1, 6)
    model.save_pretrained(tmp_path / "whole")
    loaded = TheWorldForConditionalGeneration.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "transformer"),
    [("cosmos-predict2-dit", "CosmosTransformer3DModel"), ("wan21-dit", "WanTransformer3DModel")],
)
def test_hidden_states_as_world_features(
    folders: tuple[Path, Path], tmp_path: Path, encoder: str, transformer: str
) -> None:
    world = make_tiny_dit_folder(tmp_path / "world", transformer)
    settings = {"block": 2, "noise_level": 0.5}
    model, processor = assemble(folders[0], world, encoder=encoder, encoder_settings=settings, **TINY_WORLD)
    assert model.model.world_encoder.config.items() >= settings.items()
    inputs = encode(processor, CHATS)
    wanted, answers = logits(model, inputs), greedy(model, inputs)
    model.save_pretrained(tmp_path / "whole")
    save_adapter(model, tmp_path / "adapter")
    for loaded in (
        TheWorldForConditionalGeneration.from_pretrained(tmp_path / "whole"),
        load_adapter(tmp_path / "adapter")[0],
    ):
        torch.testing.assert_close(logits(loaded, inputs), wanted, rtol=0, atol=1e-5)
        assert torch.equal(greedy(loaded, inputs), answers)
    with pytest.raises(ValueError, match=f"num_world_steps is 1, but {encoder} predicts no future. Use 0"):
        assemble(folders[0], world, encoder=encoder, num_world_steps=1, encoder_settings=settings, **TINY_WORLD)
