# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate, processors and from_pretrained otherwise than they are.
"""A prefix that is reused: the same answers as without, nothing computed twice, and never another picture's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from theworld_fusion import PrefixCache, TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

QUESTIONS = ["What happens next?", "Which way is it moving, and why?", "What colour?", "What happens before?"]
ATOL = 1e-4
"""Of logits in float32 whose largest are near 50."""


def generate(model: TheWorldForConditionalGeneration, inputs: Inputs, **kwargs: Any) -> Any:
    settings = {"do_sample": False, "max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    torch.manual_seed(3)
    return model.generate(**inputs, **{**settings, **kwargs})


def assert_uncached(model: TheWorldForConditionalGeneration, inputs: Inputs, prefix: PrefixCache, **kwargs: Any) -> Any:
    """The answer on the prefix is the answer without any cache of before."""
    ours = generate(model, inputs, past_key_values=prefix, **kwargs)
    theirs = generate(model, inputs, **kwargs)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(theirs.logits), rtol=0, atol=ATOL)
    return ours


@contextmanager
def watched(model: TheWorldForConditionalGeneration) -> Iterator[dict[str, list[int]]]:
    """Items that each encoder was given, and tokens that the language model was."""
    seen: dict[str, list[int]] = {"world": [], "vision": [], "text": []}
    inner = model.model
    modules = {"world": inner.world_encoder, "vision": inner.vision_tower, "text": inner.language_model}

    def watch(name: str, module: nn.Module) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name == "text":
                seen[name].append(kwargs["inputs_embeds"].shape[1])
            else:
                seen[name].append(len(args[0] if args else kwargs["pixel_values"]))

        return module.register_forward_pre_hook(note, with_kwargs=True)

    hooks = [watch(name, module) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def common(one: Inputs, other: Inputs) -> int:
    """Ids that two prompts of one row have in common."""
    first, second = (inputs["input_ids"][0].tolist() for inputs in (one, other))
    pairs = list(zip(first, second, strict=False))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


def media_end(inputs: Inputs) -> int:
    """Where the last image block of a prompt of one row ends."""
    return int(inputs["token_type_ids"][0].nonzero()[-1]) + 1


@pytest.fixture(params=[20, 128], ids=["short window", "long window"])
def window(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def windowed(lively: Pair, window: int) -> Iterator[Pair]:
    """The shared model, with a sliding window that is shorter than a prompt's spans, or longer than the prompt."""
    text = lively[0].config.text_config
    before, text.sliding_window = text.sliding_window, window
    yield lively
    text.sliding_window = before


def test_every_question_on_one_picture_is_answered_as_if_it_were_the_first(windowed: Pair, window: int) -> None:
    model, processor = windowed
    prefix, items = PrefixCache(), [picture(0), clip(1)]
    prompts = [encode(processor, chat(*items, text=question)) for question in QUESTIONS]
    assert (prompts[0]["input_ids"].shape[1] > window) == (window == 20)
    for number, inputs in enumerate(prompts):
        wanted = common(inputs, prompts[number - 1]) if number else 0
        with watched(model) as seen:
            generate(model, inputs, past_key_values=prefix, max_new_tokens=4, min_new_tokens=4)
        assert prefix.reused == wanted
        assert seen["text"] == [inputs["input_ids"].shape[1] - wanted, 1, 1, 1]
        assert bool(seen["world"] or seen["vision"]) == (number == 0)
    assert all(prefix.reused >= media_end(inputs) for inputs in prompts)
    for inputs in [*prompts, prompts[0], prompts[0]]:
        assert_uncached(model, inputs, prefix)


@pytest.mark.parametrize("placement", ["first", "beside_image"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_wherever_two_prompts_part_the_answer_is_the_uncached_one(
    build_lively: Callable[..., Pair], fusion: str, placement: str, attention: str
) -> None:
    model, processor = build_lively(world_fusion=fusion, world_placement=placement, world_attention=attention)
    model.config.text_config.sliding_window = 20
    inputs = encode(processor, chat(picture(0), picture(5), text="Which?"))
    ids, types = inputs["input_ids"], inputs["token_type_ids"]
    other_id = processor.tokenizer.convert_tokens_to_ids("?")
    config = model.config
    special = torch.isin(ids[0], torch.tensor([*config.world_token_ids, config.image_token_id]))
    prefix, reused = PrefixCache(), []
    for place in range(1, ids.shape[1]):
        if special[place]:
            continue
        generate(model, inputs, past_key_values=prefix, max_new_tokens=1)
        other = {**inputs, "input_ids": ids.index_fill(1, torch.tensor([place]), other_id)}
        assert_uncached(model, other, prefix, max_new_tokens=1)
        assert prefix.reused == (place if ids[0, place] != other_id else ids.shape[1] - 1)
        assert not (types[0, prefix.reused - 1] and types[0, prefix.reused])
        reused.append(prefix.reused)
    assert len(reused) > 5


def test_a_block_of_another_length_is_not_begun_in_the_middle(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, chat(picture(0), text="What happens next? What happens next?"))
    end = media_end(inputs)
    prefix, starts = PrefixCache(), end + 5
    for stop in (starts + 6, starts + 3, starts + 1, starts + 9):
        types = inputs["token_type_ids"].clone()
        types[:, starts:stop] = 1
        assert_uncached(model, {**inputs, "token_type_ids": types}, prefix)
        assert prefix.reused in (0, starts)
    assert prefix.reused == starts


def test_another_picture_or_clip_begins_afresh(lively: Pair, fusion: str) -> None:
    model, processor = lively
    prefix, frames = PrefixCache(), clip(1)
    first = encode(processor, chat(frames))
    swapped = encode(processor, chat([*frames[4:8], *frames[:4], frames[-1]]))
    assert torch.equal(first["pixel_values"], swapped["pixel_values"])
    assert torch.equal(first["input_ids"], swapped["input_ids"])
    answers = []
    for inputs in (first, swapped, encode(processor, chat(clip(2))), first):
        answers.append(assert_uncached(model, inputs, prefix).sequences)
        assert prefix.reused < media_end(inputs) - 10
    assert not torch.equal(answers[0], answers[1])


def test_the_world_turned_off_and_on_begins_afresh(lively: Pair) -> None:
    model, processor = lively
    prefix = PrefixCache()
    for world in ("on", "off", "off", "on"):
        inputs = encode(processor, chat(clip(1)), world=world)
        before = prefix.reused
        assert_uncached(model, inputs, prefix)
        assert (prefix.reused > media_end(inputs)) == (world == "off" and before > 0), world


def test_pixels_that_were_written_to_are_another_picture(lively: Pair) -> None:
    model, processor = lively
    prefix, inputs = PrefixCache(), encode(processor, chat(clip(1)))
    assert_uncached(model, inputs, prefix)
    for name in ("pixel_values", "pixel_values_world"):
        inputs[name].neg_()
        assert_uncached(model, inputs, prefix)
        assert prefix.reused < media_end(inputs) - 10
    assert_uncached(model, inputs, prefix)
    assert prefix.reused == inputs["input_ids"].shape[1] - 1


def test_weights_that_were_written_to_are_another_model(build_lively: Callable[..., Pair], fusion: str) -> None:
    model, processor = build_lively(world_fusion=fusion)
    prefix, inputs = PrefixCache(), encode(processor, chat(clip(1)))
    assert_uncached(model, inputs, prefix)
    with torch.no_grad():
        model.model.language_model.layers[0].self_attn.k_proj.weight.neg_()
    assert_uncached(model, inputs, prefix)
    assert prefix.reused == 0
    model.model.language_model.norm.weight = nn.Parameter(model.model.language_model.norm.weight + 1)
    assert_uncached(model, inputs, prefix)
    assert prefix.reused == 0
    other, _ = build_lively(world_fusion=fusion, head_seed=1)
    assert_uncached(other, inputs, prefix)
    assert prefix.reused == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"do_sample": True, "temperature": 2.0},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_every_way_of_decoding(lively: Pair, kwargs: dict[str, Any]) -> None:
    model, processor = lively
    prefix = PrefixCache()
    prompts = [encode(processor, chat(picture(0), clip(1), text=question)) for question in QUESTIONS]
    generate(model, prompts[0], past_key_values=prefix)
    for inputs in prompts[1:]:
        assert_uncached(model, inputs, prefix, **kwargs)
        assert prefix.reused >= media_end(inputs)
    assert_uncached(model, prompts[0], prefix)


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("placement", ["first", "beside_image"])
def test_a_conversation_with_new_pictures(
    build_lively: Callable[..., Pair], fusion: str, placement: str, kwargs: dict[str, Any]
) -> None:
    model, processor = build_lively(world_fusion=fusion, world_placement=placement)
    model.config.text_config.sliding_window = 20
    prefix, messages, length = PrefixCache(), [], 0
    for number, new in enumerate([[picture(0), clip(1)], [], [picture(7)], [], [clip(6)]]):
        messages += chat(*new, text=QUESTIONS[number % 4])
        inputs = encode(processor, messages)
        with watched(model) as seen:
            said = generate(model, inputs, past_key_values=prefix, **kwargs)
        assert prefix.reused == length, "the prompt of the turn before"
        assert [sum(seen[name]) for name in ("world", "vision")] == [len(new), len(new)]
        assert torch.equal(said.sequences, generate(model, inputs, **kwargs).sequences)
        length = inputs["input_ids"].shape[1]
        answer = processor.tokenizer.decode(said.sequences[0, length:], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})


@pytest.mark.parametrize("given", ["world features", "encoded"])
def test_what_was_encoded_before_is_compared_too(lively: Pair, given: str) -> None:
    model, processor = lively
    prefix, reused = PrefixCache(), []
    for text, seed in ((QUESTIONS[0], 1), (QUESTIONS[1], 1), (QUESTIONS[1], 2)):
        inputs = encode(processor, chat(picture(0), clip(seed), text=text))
        pixels, world = (inputs.pop(name) for name in ("pixel_values", "pixel_values_world"))
        with torch.no_grad():
            image, tokens = model.get_image_features(pixels, return_dict=True), model.get_world_features(world)
        if given == "encoded":
            inputs["mm_encoder_outputs"] = {"image": image, "world": tokens}
        else:
            inputs |= {"pixel_values": pixels, "world_features": tokens.last_hidden_state}
        before = image.pooler_output.clone()
        with watched(model) as seen:
            generate(model, inputs, past_key_values=prefix)
        assert bool(seen["vision"]) == (given == "world features" and prefix.reused < media_end(inputs))
        reused.append(prefix.reused)
        assert_uncached(model, inputs, prefix)
        assert_uncached(model, inputs, prefix, num_beams=2)
        assert torch.equal(image.pooler_output, before)
    assert reused[0] == 0
    assert reused[1] > media_end(inputs) > reused[2] + 10


def batch_of(processor: TheWorldProcessor, *chats: Any) -> Inputs:
    return encode(processor, list(chats))


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}], ids=str)
def test_batches_of_questions_on_one_picture(windowed: Pair, kwargs: dict[str, Any]) -> None:
    model, processor = windowed
    items = [picture(0), clip(1)]
    equal = ["What happens next?", "Which happens next?", "What next happens?"]
    single = encode(processor, chat(*items))
    even = batch_of(processor, *(chat(*items, text=text) for text in equal))
    uneven = batch_of(processor, *(chat(*items, text=text) for text in QUESTIONS))
    mixed = batch_of(processor, chat(*items), chat(text="Hello"), chat(clip(1)), chat(*items, text=QUESTIONS[1]))
    assert even["attention_mask"].all()
    assert not uneven["attention_mask"].all()
    prefix = PrefixCache()
    generate(model, single, past_key_values=prefix)
    with watched(model) as seen:
        assert torch.equal(
            generate(model, even, past_key_values=prefix, **kwargs).sequences, generate(model, even, **kwargs).sequences
        )
    assert prefix.reused >= 3 * media_end(single)
    assert sum(seen["world"]) == 6, "the batch without a prefix"
    padded = encode(processor, chat(*items), padding="max_length", max_length=single["input_ids"].shape[1] + 7)
    for inputs in (uneven, even, padded, mixed, uneven, single, padded, padded, uneven, uneven):
        assert_uncached(model, inputs, prefix, **kwargs)
    assert prefix.reused > 0


def test_rows_of_uneven_length_reuse_what_lies_before_the_block_that_padding_would_cut(lively: Pair) -> None:
    model, processor = lively
    inputs = batch_of(processor, *(chat(picture(0), clip(1), text=text) for text in QUESTIONS))
    prefix = PrefixCache()
    generate(model, inputs, past_key_values=prefix)
    with watched(model) as seen:
        generate(model, inputs, past_key_values=prefix)
    assert prefix.reused > 0
    assert sum(seen["vision"]) <= len(QUESTIONS) * 2
    assert seen["text"][0] < inputs["input_ids"].shape[1]


def continued(prefix: PrefixCache, model: TheWorldForConditionalGeneration, inputs: Inputs) -> Inputs:
    """What ``generate`` makes of its arguments."""
    ids = inputs["input_ids"]
    return {
        "input_ids": ids,
        **prefix.begin(model, ids, {name: inputs[name] for name in inputs if name != "input_ids"}),
    }


def test_what_is_kept_is_shared_and_never_written_to(lively: Pair) -> None:
    model, processor = lively
    prefix = PrefixCache()
    first, second = (encode(processor, chat(clip(1), text=text)) for text in QUESTIONS[:2])
    old = generate(model, first, past_key_values=prefix).past_key_values
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in old.layers]
    begun = continued(prefix, model, second)
    for mine, theirs in zip(begun["past_key_values"].layers, old.layers, strict=True):
        assert mine.keys.untyped_storage().data_ptr() == theirs.keys.untyped_storage().data_ptr()
        assert mine.values.shape[-2] == prefix.reused
    for settings in ({}, {"num_beams": 3}):
        generate(model, begun, **settings)
        begun = continued(prefix, model, second)
    for layer, (keys, values) in zip(old.layers, kept, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_a_call_that_was_interrupted_leaves_nothing_wrong(lively: Pair) -> None:
    model, processor = lively
    prefix, inputs = PrefixCache(), encode(processor, chat(clip(1)))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.language_model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate(model, inputs, past_key_values=prefix)
    hook.remove()
    assert_uncached(model, inputs, prefix)
    assert prefix.reused == 0
    assert_uncached(model, inputs, prefix)
    assert prefix.reused > 0
    prefix.clear()
    assert_uncached(model, inputs, prefix)
    assert prefix.reused == 0


def test_world_ids_are_generated_neither_way(lively: Pair) -> None:
    model, processor = lively
    ids = [*model.config.world_token_ids, model.config.image_token_id]
    bias = {(token,): 1e4 for token in ids}
    prefix = PrefixCache()
    for world in ("on", "on", "off", "off", "on"):
        inputs = encode(processor, chat(clip(1), text=QUESTIONS[0]), world=world)
        new = generate(model, inputs, past_key_values=prefix, sequence_bias=bias).sequences[0, -6:]
        wanted = generate(model, inputs, sequence_bias=bias).sequences[0, -6:]
        assert torch.equal(new, wanted)
        assert bool(torch.isin(new, torch.tensor(ids)).any()) == (world == "off")


def test_ids_may_be_given_by_place(lively: Pair) -> None:
    model, processor = lively
    prefix, inputs = PrefixCache(), encode(processor, chat(text="Hello"))
    ids = inputs["input_ids"]
    wanted = model.generate(ids, do_sample=False, max_new_tokens=4)
    for _ in range(2):
        assert torch.equal(model.generate(ids, past_key_values=prefix, do_sample=False, max_new_tokens=4), wanted)
    assert prefix.reused == ids.shape[1] - 1


def test_what_cannot_go_with_a_prefix_is_refused(lively: Pair) -> None:
    model, processor = lively
    prefix, inputs = PrefixCache(), encode(processor, chat(picture(0), clip(1)))
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids).detach()
    right = {name: inputs[name].flip(1) for name in ("input_ids", "attention_mask", "token_type_ids")}
    right["attention_mask"][:, -3:] = 0

    def refused(match: str, change: Inputs, **kwargs: Any) -> None:
        with pytest.raises(ValueError, match=match):
            generate(model, {**inputs, **change}, past_key_values=prefix, **kwargs)

    refused("Pass input_ids", {"inputs_embeds": embeds})
    refused("Leave position_ids out", {"position_ids": torch.arange(ids.shape[1])[None]})
    refused("use_cache is False", {}, use_cache=False)
    refused("padded on the left", right)
    new_only = {"pixel_values": inputs["pixel_values"][1:], "pixel_values_world": inputs["pixel_values_world"][1:]}
    refused("places for 2 pictures and 2 world items, and the call gives 1 and 1", new_only)
    refused("prefill_chunk_size cuts", {}, prefill_chunk_size=8)
    refused("cache_implementation", {}, cache_implementation="static")
    generate(model, inputs, past_key_values=prefix)
    refused("cannot go on from a prefix", {}, prompt_lookup_num_tokens=3)
    assert_uncached(model, inputs, prefix)
