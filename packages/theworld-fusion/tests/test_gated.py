"""Gated fusion: the base VLM bit for bit until the gate opens, then each item counts for its own image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, load_adapter, save_adapter
from theworld_fusion.gate import WorldGate
from theworld_fusion.projector import pool_area
from theworld_fusion.testing import IMAGE_TOKENS, chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

CHATS = [chat(picture(0), clip(1)), chat(text="Hello"), chat(clip(2)), chat(picture(3), text="Which way is it moving?")]


def logits(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def greedy(model: torch.nn.Module, inputs: dict, **kwargs: object) -> torch.Tensor:
    new = model.generate(**inputs, do_sample=False, **{"max_new_tokens": 6, **kwargs})  # pyright: ignore
    return new[:, inputs["input_ids"].shape[1] :]


@pytest.fixture(scope="module")
def gated(build: Callable[..., Pair]) -> Pair:
    """As it is assembled: the gate is closed. Not to be changed."""
    return build(world_fusion="gated")


@pytest.fixture(scope="module")
def opened(build: Callable[..., Pair]) -> Pair:
    """A gate as training might leave it. Not to be changed."""
    model, processor = build(world_fusion="gated")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.init.normal_(model.model.world_gate.weight, std=1.0)
    return model, processor


def test_prompts_are_the_base_vlms_and_pixels_come_along(gated: Pair, folders: tuple[Path, Path]) -> None:
    _, processor = gated
    on, off = encode(processor, CHATS), encode(processor, CHATS, world="off")
    assert set(on) - set(off) == {"pixel_values_world"}
    assert all(torch.equal(on[key], off[key]) for key in off)
    assert [len(item) for item in on["pixel_values_world"]] == [1, 9, 9, 1]


def test_a_closed_gate_is_the_base_vlm_bit_for_bit(gated: Pair, folders: tuple[Path, Path]) -> None:
    model, processor = gated
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    for chats in ([CHATS[1]], [CHATS[0]], CHATS):
        on, off = encode(processor, chats), encode(processor, chats, world="off")
        assert torch.equal(logits(model, on), logits(stock, off))
        assert torch.equal(greedy(model, on), greedy(stock, off))
        assert torch.equal(greedy(model, on, num_beams=3), greedy(stock, off, num_beams=3))


def test_an_open_gate_lets_the_clip_through_and_off_is_still_the_base_vlm(
    opened: Pair, folders: tuple[Path, Path]
) -> None:
    model, processor = opened
    frames = clip(1)
    on, off = encode(processor, chat(frames)), encode(processor, chat(frames), world="off")
    backwards = encode(processor, chat([*frames[-2::-1], frames[-1]]))
    swapped = encode(processor, chat([*frames[4:8], *frames[:4], frames[-1]]))
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    assert torch.equal(logits(model, off), logits(stock, off))
    for other in (off, backwards, swapped):
        assert (logits(model, on) - logits(model, other))[:, -1].abs().max() > 0.01


def test_batch_is_single_and_cached_is_uncached(opened: Pair) -> None:
    model, processor = opened
    batch = encode(processor, CHATS)
    together, answers = logits(model, batch), greedy(model, batch)
    for row, messages in enumerate(CHATS):
        single = encode(processor, messages)
        alone = logits(model, single)[0]
        torch.testing.assert_close(together[row, -alone.shape[0] :], alone, rtol=0, atol=1e-4)
        answer = greedy(model, single)[0]
        assert answers[row, : len(answer)].tolist() == answer.tolist()
    single = encode(processor, CHATS[0])
    assert torch.equal(greedy(model, single), greedy(model, single, use_cache=False))


def test_beams_and_chunks_see_their_own_rows_world(opened: Pair) -> None:
    model, processor = opened
    chats = CHATS[:3]
    together = greedy(model, encode(processor, chats), num_beams=3)
    for row, messages in enumerate(chats):
        alone = greedy(model, encode(processor, messages), num_beams=3)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
    single = encode(processor, CHATS[2])
    edge = int((single["input_ids"][0] == model.config.image_token_id).nonzero()[-1]) + 1
    assert torch.equal(greedy(model, single, prefill_chunk_size=edge), greedy(model, single))


def test_each_item_reaches_its_own_image_only(opened: Pair) -> None:
    model, processor = opened
    first, second = (encode(processor, chat(picture(0), clip(seed)))["pixel_values_world"] for seed in (1, 2))
    image = model.get_image_features(encode(processor, chat(picture(0), clip(1)))["pixel_values"], return_dict=True)
    one, other = (
        model.model.gate_image_features(image, model.get_world_features(pixels)).pooler_output
        for pixels in (first, second)
    )
    assert one.shape == (2, IMAGE_TOKENS, model.config.text_config.hidden_size)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_precomputed_is_live(opened: Pair) -> None:
    model, processor = opened
    inputs = encode(processor, CHATS)
    wanted, answers = logits(model, inputs), greedy(model, inputs)
    rest = {key: value for key, value in inputs.items() if "pixel" not in key}
    image = model.get_image_features(inputs["pixel_values"], return_dict=True)
    world = model.get_world_features(inputs["pixel_values_world"])
    pixels = image.pooler_output.clone()
    for given in (
        {"pixel_values": inputs["pixel_values"], "world_features": world.last_hidden_state},
        {"mm_encoder_outputs": {"image": image, "world": world}},
        {"mm_encoder_outputs": {"image": image}, "world_features": world.last_hidden_state},
    ):
        assert torch.equal(logits(model, {**rest, **given}), wanted)
        assert torch.equal(greedy(model, {**rest, **given}), answers)
        greedy(model, {**rest, **given}, num_beams=2)
        assert torch.equal(image.pooler_output, pixels), "what the caller gave was changed"


def test_the_gate_learns_first_and_opens_the_way_to_the_projector(build: Callable[..., Pair]) -> None:
    model, processor = build(world_fusion="gated")
    inputs = encode(processor, chat(clip(1)))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 7
    new = [*model.model.world_gate.parameters(), *model.model.world_projector.parameters()]
    optimizer = torch.optim.SGD(new, lr=1.0)
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        reached.append([bool(parameter.grad.abs().max() > 0) for parameter in new])  # pyright: ignore
        optimizer.step()
    gate, projector = slice(0, 2), slice(2, None)
    assert all(reached[0][gate])
    assert not any(reached[0][projector])
    names = [name for name, _ in model.model.world_projector.named_parameters()]
    assert {name for name, hit in zip(names, reached[1][projector], strict=True) if not hit} == set()


def test_world_ids_are_not_generated(build: Callable[..., Pair]) -> None:
    model, processor = build(world_fusion="gated")
    ids = torch.tensor(model.config.world_token_ids)
    with torch.no_grad():
        first, second = torch.randn(2, model.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(0))
        model.lm_head.weight[ids] = 20 * torch.stack([first, second, -first - second])
    for kind, wanted in (("off", True), ("on", False)):
        inputs = encode(processor, chat(clip(1)), world=kind)
        assert torch.isin(greedy(model, inputs), ids).any() == wanted, kind
        first = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, torch.tensor([[9, 10]])], dim=1)
        again = model.generate(input_ids=longer, past_key_values=first.past_key_values, max_new_tokens=6)
        assert torch.isin(again[:, longer.shape[1] :], ids).any() == wanted, kind


def test_saved_is_loaded_and_the_adapter_holds_the_gate(opened: Pair, tmp_path: Path) -> None:
    model, processor = opened
    inputs = encode(processor, CHATS)
    wanted = logits(model, inputs)
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    loaded = TheWorldForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(loaded, inputs), wanted)
    assert TheWorldProcessor.from_pretrained(tmp_path / "whole").world_fusion == "gated"
    save_adapter(model, tmp_path / "adapter")
    again, processor = load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(again, encode(processor, CHATS)), wanted)


@pytest.mark.parametrize("override", [{"world_projector": "linear"}, {"world_patch": 1}, {"frame_size": 64}])
def test_any_world_grid_meets_the_images(build: Callable[..., Pair], override: dict) -> None:
    model, processor = build(world_fusion="gated", **override)
    tokens = model.get_world_features(encode(processor, chat(clip(1)))["pixel_values_world"]).pooler_output
    assert [tuple(item.shape) for item in tokens] == [(IMAGE_TOKENS, model.config.text_config.hidden_size)]


def test_pool_area_takes_the_mean_of_what_a_cell_covers() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_area(images, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_area(torch.ones(1, 3, 32, 32), 16).shape == (1, 3, 16, 16)
    assert pool_area(images, 4) is images


def test_a_gate_is_one_number_for_each_token() -> None:
    gate = WorldGate(8, 1e-6)
    with torch.no_grad():
        torch.nn.init.normal_(gate.weight, generator=torch.Generator().manual_seed(1))
    image, world = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    added = (gate(image, world) - image) / world
    torch.testing.assert_close(added, added[..., :1].expand_as(added), rtol=1e-3, atol=1e-5)
    assert added[..., 0].unique().numel() == 12
    assert added.abs().max() <= 1 + 1e-4


def test_items_without_an_image_of_their_own_are_refused(opened: Pair) -> None:
    model, processor = opened
    inputs = encode(processor, chat(picture(0), clip(1)))
    one = inputs["pixel_values_world"][:1]
    with pytest.raises(ValueError, match="there are 1 items for 2 images"):
        model(**{**inputs, "pixel_values_world": one})
    with pytest.raises(ValueError, match="there are 2 items for 0 images"):
        model(**{**inputs, "pixel_values": None})
    with pytest.raises(ValueError, match=r"1 items made 3 images\. Turn do_pan_and_scan off"):
        processor(
            images=picture(0, (640, 160)), text=processor.boi_token, do_pan_and_scan=True,
            pan_and_scan_min_crop_size=16, pan_and_scan_max_num_crops=2, pan_and_scan_min_ratio_to_activate=1.2,
        )  # fmt: skip
    world = BaseModelOutputWithPooling(pooler_output=[torch.zeros(IMAGE_TOKENS, 96)])
    with pytest.raises(ValueError, match="world input is given twice"):
        model(**inputs, mm_encoder_outputs={"world": world})
