"""The last layer's MLP sees no more places than have their next word asked for; from the outside nobody can tell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.last_layer import last_places
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture
from theworld_tokens import IGNORE_INDEX

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

CHATS = [chat(picture(0), clip(1)), chat(text="Hello"), chat(clip(2))]


@contextmanager
def seen(model: TheWorldForConditionalGeneration) -> Iterator[list[tuple[int, int]]]:
    """Places that the MLPs of the first and the last layer saw in each pass."""
    layers, found = model.model.language_model.layers, {0: list[int](), -1: list[int]()}

    def note(place: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _module, given: found[place].append(given[0].numel() // given[0].shape[-1])

    hooks = [layers[place].mlp.register_forward_pre_hook(note(place)) for place in found]
    places: list[tuple[int, int]] = []
    try:
        yield places
    finally:
        for hook in hooks:
            hook.remove()
        places += zip(*found.values(), strict=True)


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("chats", [CHATS, CHATS[0]], ids=["batch", "one"])
@torch.no_grad()
def test_a_prefill_goes_on_at_the_places_it_keeps(lively: Pair, chats: list[Any], kept: int) -> None:
    model, processor = lively
    inputs = encode(processor, chats)
    rows, length = inputs["input_ids"].shape
    whole = model(**inputs)
    with seen(model) as places:
        found = model(**inputs, logits_to_keep=kept)
    assert places == [(rows * length, rows * kept)]
    torch.testing.assert_close(found.logits, whole.logits[:, -kept:], rtol=0, atol=1e-4)
    for one, other in zip(found.past_key_values.layers, whole.past_key_values.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


@torch.no_grad()
def test_so_does_that_of_generate_and_its_steps_have_one_place_anyway(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    rows, length = inputs["input_ids"].shape
    with seen(model) as places:
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert places == [(rows * length, rows), (rows, rows), (rows, rows)]


@pytest.mark.parametrize("world", ["on", "off"])
@torch.no_grad()
def test_what_is_asked_for_everywhere_is_computed_everywhere(lively: Pair, world: str) -> None:
    """Without world input this is Gemma 3 bit for bit, whose last layer computes all."""
    model, processor = lively
    inputs = encode(processor, CHATS, world=world)
    every = inputs["input_ids"].numel()
    for settings in ({}, {"logits_to_keep": 1, "output_hidden_states": True}, {"logits_to_keep": torch.tensor([3])}):
        with seen(model) as places:
            outputs = model(**inputs, **settings)
        assert places == [(every, every)]
        if "output_hidden_states" in settings:
            assert {states.shape[:2] for states in outputs.hidden_states} == {inputs["input_ids"].shape}
    with seen(model) as places:
        model(**inputs, logits_to_keep=1)
    assert places == [(every, every if world == "off" else len(inputs["input_ids"]))]


def labelled(inputs: dict[str, Any], number: int) -> dict[str, Any]:
    """With labels on so many words of the last row, its first word and the first row's last one among them."""
    labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
    flat = labels.view(-1)
    places = [labels.shape[1] - 1, *range(len(flat) - number + 1, len(flat))][:number]
    flat[places] = inputs["input_ids"].view(-1)[places]
    return {**inputs, "labels": labels}


@pytest.mark.parametrize("world", ["on", "off"])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_a_training_step_goes_on_at_its_labels(build_lively: Callable[..., Pair], number: int, world: str) -> None:
    """Without one label all goes on, for a kernel may not take nothing; every weight has a gradient all the same."""
    model, processor = build_lively()
    inputs = labelled(encode(processor, CHATS, world=world), number)
    every, outcomes = inputs["input_ids"].numel(), []
    for settings in ({}, {"output_hidden_states": True}):
        model.train().zero_grad()
        with seen(model) as places:
            outputs = model(**inputs, **settings)
        assert places == [(every, number or every if not settings else every)]
        outputs.loss.backward()
        outcomes.append((outputs.loss.detach(), {name: one.grad for name, one in model.named_parameters()}))
    (loss, found), (wanted_loss, wanted) = outcomes
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-6, atol=0)
    assert all(gradient is not None for name, gradient in found.items() if "language_model" in name)
    scale = max(float(one.norm()) for one in wanted.values() if one is not None)
    assert (scale > 0) == (number > 0)
    for name, gradient in wanted.items():
        if gradient is not None:
            assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7 * scale, name


def test_another_number_of_labels_than_of_tokens_is_an_error_before_anything_is_computed(pair: Pair) -> None:
    model, processor = pair
    inputs = encode(processor, CHATS)
    rows, length = inputs["input_ids"].shape
    labels = torch.zeros(rows, length + 1, dtype=torch.long)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with (
        seen(model) as places,
        pytest.raises(ValueError, match=rf"labels have shape \({rows}, {length + 1}\), and the prompt"),
    ):
        model(**inputs, inputs_embeds=embeds, labels=labels, skip_logits=True)
    assert not places


@pytest.mark.parametrize("settings", [{"logits_to_keep": 1}, {"labels": torch.ones(1, 3), "skip_logits": True}])
def test_a_prompt_is_missed_by_name(pair: Pair, settings: dict[str, Any]) -> None:
    model, processor = pair
    pixels = encode(processor, CHATS)["pixel_values_world"]
    with pytest.raises(ValueError, match="pass exactly one of input_ids and inputs_embeds"):
        model(pixel_values_world=pixels, **settings)


def test_its_layer_is_never_cut_through(pair: Pair) -> None:
    model, _ = pair
    assert {"LastLayer", "Gemma3DecoderLayer"} <= set(model._no_split_modules)


def test_places_are_counted_from_the_end_of_every_row() -> None:
    tokens = torch.zeros(2, 5)
    assert last_places(tokens, 2).tolist() == [3, 4, 8, 9]
    assert [last_places(tokens, number) for number in (0, 5, 6)] == [None] * 3
