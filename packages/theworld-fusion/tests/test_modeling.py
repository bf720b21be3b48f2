"""Equalities of the model: off == base, batch == single, cached == uncached, saved == loaded, features == pixels."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, Gemma3ForConditionalGeneration

from theworld_fusion import (
    CheckpointError,
    TheWorldConfig,
    TheWorldForConditionalGeneration,
    TheWorldModel,
    TheWorldProcessor,
    assemble,
    load_model,
    load_processor,
)
from theworld_fusion.testing import TINY_WORLD, chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

CHATS = [chat(picture(0), clip(1)), chat(text="Hello"), chat(clip(2)), chat(picture(3), text="Which way is it moving?")]


def logits(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def greedy(model: TheWorldForConditionalGeneration, inputs: dict, **kwargs: object) -> torch.Tensor:
    return model.generate(**inputs, do_sample=False, **{"max_new_tokens": 6, **kwargs})[
        :, inputs["input_ids"].shape[1] :
    ]


def test_gemmas_weights_are_all_there(pair: Pair, folders: tuple[Path, Path]) -> None:
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0]).state_dict()
    ours = pair[0].state_dict()
    assert all(torch.equal(ours[key], value) for key, value in stock.items())
    assert {key.split(".")[1] for key in set(ours) - set(stock)} == {"world_encoder", "world_projector"}


@pytest.mark.parametrize("world", [{}, {"world_fusion": "none"}])
def test_world_off_is_the_base_vlm(build: Callable[..., Pair], folders: tuple[Path, Path], world: dict) -> None:
    model, processor = build(**world)
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    for chats in ([CHATS[1]], [CHATS[0]], CHATS):
        inputs = encode(processor, chats, world="off")
        assert "pixel_values_world" not in inputs
        assert torch.equal(logits(model, inputs), logits(stock, inputs))
        assert torch.equal(greedy(model, inputs), greedy(stock, inputs))


def test_world_on_changes_the_answer_distribution_and_depends_on_the_clip(pair: Pair) -> None:
    model, processor = pair
    frames = clip(1)
    on = logits(model, encode(processor, chat(frames)))[:, -1]
    off = logits(model, encode(processor, chat(frames), world="off"))[:, -1]
    backwards = logits(model, encode(processor, chat([*frames[-2::-1], frames[-1]])))[:, -1]
    assert (on - off).abs().max() > 0.01
    assert (on - backwards).abs().max() > 0.01  # same last frame, other motion


def test_batch_is_single(lively: Pair) -> None:
    model, processor = lively
    batch = encode(processor, CHATS)
    together, answers = logits(model, batch), greedy(model, batch)
    for row, messages in enumerate(CHATS):
        single = encode(processor, messages)
        alone = logits(model, single)[0]
        torch.testing.assert_close(together[row, -alone.shape[0] :], alone, rtol=0, atol=1e-4)
        answer = greedy(model, single)[0]
        assert answers[row, : len(answer)].tolist() == answer.tolist()


def test_cached_is_uncached_and_the_encoder_runs_once(build_lively: Callable[..., Pair]) -> None:
    model, processor = build_lively()
    calls = []
    model.model.world_encoder.register_forward_hook(lambda *_: calls.append(1))
    inputs = encode(processor, chat(clip(1)))
    cached = greedy(model, inputs)
    assert len(calls) == 1
    assert torch.equal(cached, greedy(model, inputs, use_cache=False))


def test_features_are_pixels(pair: Pair) -> None:
    model, processor = pair
    inputs = encode(processor, CHATS)
    pixels = inputs["pixel_values_world"]
    features = model.get_world_features(pixel_values_world=pixels).last_hidden_state
    rest = {key: value for key, value in inputs.items() if key != "pixel_values_world"}
    assert [tuple(item.shape) for item in features] == [(1, 6, 6, 16), (3, 6, 6, 16), (3, 6, 6, 16), (1, 6, 6, 16)]
    assert torch.equal(logits(model, {**rest, "world_features": features}), logits(model, inputs))


def test_saved_is_loaded(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    inputs = encode(processor, CHATS)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, TheWorldForConditionalGeneration)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    assert not any(parameter.requires_grad for parameter in loaded.model.world_encoder.parameters())
    assert isinstance(AutoModel.from_pretrained(tmp_path), TheWorldModel)


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_see_their_own_rows_world(lively: Pair, kwargs: dict) -> None:
    model, processor = lively
    chats = [CHATS[0], CHATS[1], CHATS[2]]
    together = greedy(model, encode(processor, chats), **kwargs)
    returned = kwargs.get("num_return_sequences", 1)
    for row, messages in enumerate(chats):
        alone = greedy(model, encode(processor, messages), **kwargs)
        ours = together[row * returned : (row + 1) * returned, : alone.shape[1]]
        assert torch.equal(ours, alone)


def test_generation_stops_at_end_of_turn(pair: Pair) -> None:
    model, processor = pair
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert set(model.generation_config.eos_token_id) == {processor.tokenizer.eos_token_id, end}


def test_four_threads_at_once_give_what_one_gives(pair: Pair) -> None:
    model, processor = pair
    prompts = [encode(processor, chat(clip(seed))) for seed in range(4)]
    wanted = [logits(model, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda prompt: logits(model, prompt), prompts))
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def favour_world_ids(model: TheWorldForConditionalGeneration) -> torch.Tensor:
    """Whatever the state, one of three rows that add up to nothing has a large logit. Returns the world ids."""
    config = model.config
    ids = torch.tensor([config.world_start_token_id, config.world_end_token_id, config.world_token_id])
    with torch.no_grad():
        first, second = torch.randn(2, model.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(0))
        model.lm_head.weight[ids] = 20 * torch.stack([first, second, -first - second])
    return ids


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 4}])
def test_with_the_world_on_world_ids_are_never_generated(build: Callable[..., Pair], decoding: dict) -> None:
    model, processor = build()
    ids = favour_world_ids(model)
    for kind, wanted in (("off", True), ("on", False)):
        inputs = encode(processor, chat(clip(1)), world=kind)
        new = model.generate(**inputs, max_new_tokens=6, **decoding)[:, inputs["input_ids"].shape[1] :]
        assert torch.isin(new, ids).any() == wanted, kind


def test_in_a_later_turn_on_the_same_cache_they_are_not_either(build: Callable[..., Pair]) -> None:
    model, processor = build()
    ids = favour_world_ids(model)
    for kind, wanted in (("off", True), ("on", False)):
        inputs = encode(processor, chat(clip(1)), world=kind)
        first = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, torch.tensor([[9, 10]])], dim=1)
        again = model.generate(input_ids=longer, past_key_values=first.past_key_values, max_new_tokens=6)
        assert torch.isin(again[:, longer.shape[1] :], ids).any() == wanted, kind


def test_nor_on_a_cache_that_forward_filled(build: Callable[..., Pair]) -> None:
    model, processor = build()
    ids = favour_world_ids(model)
    inputs = encode(processor, chat(clip(1)))
    with torch.no_grad():
        cache = model(**inputs).past_key_values
    longer = torch.cat([inputs["input_ids"], torch.tensor([[9, 10]])], dim=1)
    again = model.generate(input_ids=longer, past_key_values=cache, max_new_tokens=6)
    assert not torch.isin(again[:, longer.shape[1] :], ids).any()


def test_a_loss_on_the_answer_reaches_the_projector_and_no_frozen_encoder(build: Callable[..., Pair]) -> None:
    model, processor = build()
    inputs = encode(processor, chat(clip(1)))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 7
    model(**inputs, labels=labels).loss.backward()
    projector = model.model.world_projector
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.model.world_encoder.parameters())


def test_world_tokens_start_at_the_scale_of_token_embeddings(pair: Pair) -> None:
    model, processor = pair
    inputs = encode(processor, chat(picture(0)))
    tokens = model.get_world_features(inputs["pixel_values_world"]).pooler_output[0]
    embeddings = model.get_input_embeddings()(torch.arange(model.config.text_config.vocab_size))
    ratio = tokens.pow(2).mean().sqrt() / embeddings.pow(2).mean().sqrt()
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize("override", [{"world_projector": "linear"}, {"world_patch": 1}, {"world_tokens_per_item": 16}])
def test_projector_settings_work(build: Callable[..., Pair], override: dict) -> None:
    model, processor = build(**override)
    inputs = encode(processor, CHATS)
    assert logits(model, inputs).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_reaches_every_part(build: Callable[..., Pair], dtype: torch.dtype) -> None:
    model, processor = build(dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert logits(model, encode(processor, chat(clip(1)))).isfinite().all()


def test_both_world_inputs_at_once_are_refused(pair: Pair) -> None:
    model, processor = pair
    inputs = encode(processor, chat(clip(1)))
    features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    with pytest.raises(ValueError, match="exactly one of pixel_values_world and world_features"):
        model(**inputs, world_features=features)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pixels: pixels[:, :, :1], r"shape \(9, 1, 48, 48\)\. Give \[frames, 3, height, width\]"),
        (lambda pixels: pixels.repeat(1, 1, 2, 1, 1)[:, :, :4], r"shape \(9, 4, 48, 48\)\. Give \[frames, 3"),
        (lambda pixels: pixels[0], r"shape \(3, 48, 48\)\. Give"),
        (
            lambda pixels: ((pixels + 1) * 127).to(torch.uint8),
            r"torch\.uint8\. Give floating .* in \[-1, 1\]",
        ),
        (lambda pixels: pixels[:, :8], "cannot encode 8 frames"),
    ],
)
def test_world_pixels_of_another_kind_are_refused(pair: Pair, spoil: Callable, message: str) -> None:
    model, processor = pair
    inputs = encode(processor, chat(clip(1)))
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, "pixel_values_world": spoil(inputs["pixel_values_world"])})


def test_world_features_of_another_encoder_are_refused(pair: Pair) -> None:
    model, processor = pair
    inputs = encode(processor, chat(clip(1)))
    pixels = inputs.pop("pixel_values_world")
    features = model.get_world_features(pixels).last_hidden_state[0]
    with pytest.raises(ValueError, match="are 8 wide, this model's encoder gives 16"):
        model(**inputs, world_features=[features[..., :8]])


@pytest.mark.parametrize("world", ["on", "off"])
def test_slots_that_are_not_the_features_are_refused(pair: Pair, world: str) -> None:
    model, processor = pair
    inputs = encode(processor, chat(picture(0), clip(1)), world=world)
    with pytest.raises(ValueError, match="the prompt has 32 slots for 16 features"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    if world == "on":
        with pytest.raises(ValueError, match="the prompt has 63 slots for 36 features"):
            model(**{**inputs, "pixel_values_world": inputs["pixel_values_world"][:1]})


def test_world_input_for_a_model_without_a_world_branch_is_refused(build: Callable[..., Pair], pair: Pair) -> None:
    inputs = encode(pair[1], chat(clip(1)))
    with pytest.raises(ValueError, match="world_fusion='none'"):
        build(world_fusion="none")[0](**inputs)


def test_an_unknown_override_names_the_nearest(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"no field 'world_tokens'\. Did you mean world_token"):
        assemble(*folders, **{**TINY_WORLD, "world_tokens": 36})


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint, not of type gemma3"):
        assemble(tmp_path, folders[1])
    with pytest.raises(CheckpointError, match="is no checkpoint here"):
        assemble(tmp_path / "nowhere", folders[1])
    TheWorldConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="of type theworld, not of type gemma3"):
        assemble(tmp_path, folders[1])


def test_a_vlm_with_a_missing_weight_is_refused(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    import json
    import shutil

    vlm = shutil.copytree(folders[0], tmp_path / "vlm")
    index = vlm / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    from safetensors.torch import load_file, save_file

    name, file = next((key, file) for key, file in content["weight_map"].items() if "embed_tokens" in key)
    tensors = load_file(vlm / file)
    tensors.pop(name)
    save_file(tensors, vlm / file, metadata={"format": "pt"})
    del content["weight_map"][name]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="weights are missing"):
        assemble(vlm, folders[1], **TINY_WORLD)


def test_load_model_and_load_processor(pair: Pair, tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model, processor = pair
    with pytest.raises(CheckpointError, match="of type gemma3, not of type theworld"):
        load_model(folders[0])
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no readable processor"):
        load_processor(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = encode(load_processor(tmp_path), CHATS)
    assert torch.equal(logits(load_model(tmp_path), inputs), logits(model, encode(processor, CHATS)))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has no readable weights"):
        load_model(tmp_path)
