# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate, processors and from_pretrained otherwise than they are.
"""Generation in every mode that Gemma 3 has: world input gives the same answer by each way of computing it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TextIteratorStreamer, TextStreamer

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

CHATS = [
    chat(picture(0), picture(4)),
    chat(clip(1)),
    chat(text="What colour is it?"),
    chat(picture(3), clip(2), text="Which way is it moving?"),
]
BOTH = CHATS[3]
"""One prompt with a picture and a clip."""

MASKS = ("attention_mask", "token_type_ids")

MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beam": {"num_beams": 3},
    "beam, several": {"num_beams": 3, "num_return_sequences": 2},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 80},
    "uncached": {"use_cache": False},
    "assisted": {},
}


def generate(model: TheWorldForConditionalGeneration, inputs: Inputs, **kwargs: Any) -> Any:
    """Ids and the logits before any processing, greedy unless asked otherwise."""
    settings = {"do_sample": False, "max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(**inputs, **{**settings, **kwargs})


def answer(model: TheWorldForConditionalGeneration, inputs: Inputs, **kwargs: Any) -> Tensor:
    return generate(model, inputs, **kwargs).sequences[:, inputs["input_ids"].shape[1] :]


def assert_same(ours: Any, theirs: Any, *, atol: float = 1e-4) -> None:
    """The same ids, and logits that differ by rounding only."""
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(theirs.logits), rtol=0, atol=atol)


@contextmanager
def watched(model: TheWorldForConditionalGeneration) -> Iterator[list[tuple[str, int]]]:
    """What ran, in order: each encoder with its number of items, and the language model."""
    events: list[tuple[str, int]] = []

    def watch(name: str, module: nn.Module) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            pixels = args[0] if args else kwargs.get("pixel_values")
            events.append((name, 0 if pixels is None else len(pixels)))

        return module.register_forward_pre_hook(note, with_kwargs=True)

    inner = model.model
    modules = {"world": inner.world_encoder, "vision": inner.vision_tower, "text": inner.language_model}
    hooks = [watch(name, module) for name, module in modules.items()]
    try:
        yield events
    finally:
        for hook in hooks:
            hook.remove()


def encoded(model: TheWorldForConditionalGeneration, inputs: Inputs) -> tuple[Inputs, Inputs]:
    """The prompt without its media, and what both encoders make of them."""
    rest = {key: value for key, value in inputs.items() if not key.startswith("pixel_values")}
    with torch.no_grad():
        image = model.get_image_features(inputs["pixel_values"], return_dict=True)
        world = model.get_world_features(inputs["pixel_values_world"])
    return rest, {"image": image, "world": world}


@pytest.fixture(scope="module")
def assistant(build_lively: Callable[..., Pair], lively: Pair, fusion: str) -> TheWorldForConditionalGeneration:
    """Near enough to the model that some of what it drafts is right, and some is wrong."""
    model, _ = build_lively(world_fusion=fusion)
    noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        model.lm_head.weight.add_(noise, alpha=0.3)
    return model


def test_answers_depend_on_the_world_and_on_its_order(lively: Pair) -> None:
    model, processor = lively
    frames = clip(1)
    prompts = [
        encode(processor, chat(frames)),
        encode(processor, chat(frames), world="off"),
        encode(processor, chat([*frames[-2::-1], frames[-1]])),
        encode(processor, chat([*frames[:-1], picture(9)])),
    ]
    assert len({tuple(answer(model, prompt)[0].tolist()) for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("mode", MODES)
def test_each_encoder_runs_once_for_each_item_and_in_no_decode_step(
    lively: Pair, assistant: TheWorldForConditionalGeneration, mode: str
) -> None:
    model, processor = lively
    kwargs = {**MODES[mode], **({"assistant_model": assistant} if mode == "assisted" else {})}
    inputs = processor(images=[picture(3), clip(2)], text=2 * processor.boi_token + "What colour?", return_tensors="pt")
    with watched(model) as events, watched(assistant) as of_assistant:
        generate(model, dict(inputs), min_new_tokens=4, **kwargs)
    kinds = [name for name, _ in events]
    assert kinds.count("text") > 1
    for encoder in ("world", "vision"):
        assert sum(items for name, items in events if name == encoder) == 2, encoder
        assert encoder not in kinds[kinds.index("text") :]
    assert {name for name, _ in of_assistant} <= {"text"}


@pytest.mark.parametrize("kwargs", [{}, {"do_sample": True}, {"num_beams": 3, "num_return_sequences": 2}])
def test_uncached_is_cached(lively: Pair, kwargs: dict[str, Any]) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    results = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        results.append(answer(model, inputs, use_cache=use_cache, **kwargs))
    assert torch.equal(*results)


def test_the_seed_decides_what_is_sampled(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return answer(model, inputs, do_sample=True, temperature=2.0).tolist()

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_each_row_of_a_padded_batch_is_that_row_alone(lively: Pair) -> None:
    model, processor = lively
    batch = encode(processor, CHATS)
    assert len({tuple(row.tolist()) for row in batch["attention_mask"]}) == len(CHATS)
    together = generate(model, batch)
    for row, messages in enumerate(CHATS):
        alone = generate(model, encode(processor, messages))
        prompt, length = encode(processor, messages)["input_ids"].shape[1], len(alone.logits)
        ours = together.sequences[row, batch["input_ids"].shape[1] :][:length]
        assert torch.equal(ours, alone.sequences[0, prompt:])
        for mine, single in zip(together.logits, alone.logits, strict=False):
            torch.testing.assert_close(mine[row], single[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2, "do_sample": False}])
def test_beams_of_each_row_are_those_of_that_row_alone(lively: Pair, kwargs: dict[str, Any]) -> None:
    model, processor = lively
    together = answer(model, encode(processor, CHATS), **kwargs)
    returned = kwargs.get("num_return_sequences", 1)
    for row, messages in enumerate(CHATS):
        alone = answer(model, encode(processor, messages), **kwargs)
        assert torch.equal(together[row * returned : (row + 1) * returned, : alone.shape[1]], alone)


def test_several_sequences_of_a_row_see_that_rows_world(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    several = answer(model, inputs, do_sample=True, top_k=1, num_return_sequences=3)  # sampling from one word: greedy
    assert torch.equal(several, answer(model, inputs).repeat_interleave(3, dim=0))


@pytest.mark.parametrize("messages", [CHATS[2], CHATS[0], BOTH])
def test_assisted_is_greedy(lively: Pair, assistant: TheWorldForConditionalGeneration, messages: Any) -> None:
    model, processor = lively
    inputs = encode(processor, messages)
    plain = generate(model, inputs)
    assert not torch.equal(plain.sequences, generate(assistant, inputs).sequences)
    with watched(model) as events:
        assisted = generate(model, inputs, assistant_model=assistant)
    assert_same(assisted, plain)
    if messages is CHATS[2]:  # as in stock Gemma 3 the assistant drafts without media, so only text is drafted well
        assert len(events) < len(plain.logits)


def repeating(model: TheWorldForConditionalGeneration, inputs: Inputs) -> Inputs:
    """The prompt, its answer, and the prompt's end again: what was said once can be looked up."""
    ids = inputs["input_ids"]
    longer = torch.cat([ids, answer(model, inputs), ids[:, -3:]], dim=1)
    more = longer.shape[1] - ids.shape[1]
    masks = {key: nn.functional.pad(inputs[key], (0, more), value=key == "attention_mask") for key in MASKS}
    return {**inputs, **masks, "input_ids": longer}


@pytest.mark.parametrize("items", [[], [clip(2)]], ids=["text", "clip"])
def test_prompt_lookup_is_greedy(lively: Pair, items: list[Any]) -> None:
    model, processor = lively
    inputs = repeating(model, encode(processor, chat(*items)))
    plain = generate(model, inputs)
    with watched(model) as events:
        assert_same(generate(model, inputs, prompt_lookup_num_tokens=4), plain)
    if not items:
        assert [name for name, _ in events].count("text") < len(plain.logits)


@pytest.mark.parametrize(
    ("fusion", "placement"),
    [
        ("sequence", "first"),
        ("sequence", "beside_image"),
        ("gated", "first"),
    ],
)
def test_prompt_lookup_drafts_no_placeholder(build_lively: Callable[..., Pair], fusion: str, placement: str) -> None:
    model, processor = build_lively(world_fusion=fusion, world_placement=placement)
    inputs = encode(processor, chat(picture(3), text="And?"))
    assert_same(generate(model, inputs, prompt_lookup_num_tokens=3), generate(model, inputs))


def test_static_cache_is_dynamic_cache(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    assert_same(generate(model, inputs, cache_implementation="static"), generate(model, inputs))


def test_what_is_streamed_is_what_is_returned(lively: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = lively
    inputs = encode(processor, BOTH)
    tokenizer = processor.tokenizer
    returned = tokenizer.decode(answer(model, inputs)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = Thread(target=lambda: answer(model, inputs, streamer=streamer))
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert len(pieces) > 2
    assert "".join(pieces) == returned
    capsys.readouterr()
    answer(model, inputs, streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out.rstrip("\n") == returned.rstrip("\n")


@pytest.mark.parametrize("token", ["<eos>", "<end_of_turn>"])
def test_both_ends_stop(lively: Pair, token: str) -> None:
    model, processor = lively
    inputs = encode(processor, BOTH)
    end, other = processor.tokenizer.convert_tokens_to_ids([token, "<start_of_turn>"])
    assert answer(model, inputs, sequence_bias={(end,): 1e4}).tolist() == [[end]]
    assert answer(model, inputs, sequence_bias={(other,): 1e4}).tolist() == [[other] * 8]


def cuts_outside_blocks(inputs: Inputs) -> list[int]:
    """Chunk sizes none of whose cuts falls between two tokens that see each other in both directions."""
    inside = inputs["token_type_ids"][0].bool()
    broken = {position for position in range(1, len(inside)) if inside[position - 1] and inside[position]}
    return [size for size in range(2, len(inside)) if not broken & set(range(size, len(inside), size))]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_prefill_in_chunks_is_prefill_at_once(build_lively: Callable[..., Pair], fusion: str, attention: str) -> None:
    model, processor = build_lively(world_fusion=fusion, world_attention=attention)
    inputs = encode(processor, CHATS[1])
    ids, soft = inputs["input_ids"][0], model.config.world_token_id
    edges = [at for at in range(len(ids)) if ids[at] == model.config.world_end_token_id]
    sizes = [size for size in cuts_outside_blocks(inputs) if size not in edges]
    in_span = [size for size in sizes if ids[size - 1] == ids[size] == soft]
    assert bool(in_span) == (
        attention == "causal" and fusion == "sequence"
    )  # a causal span may be cut, since nothing in it looks ahead
    whole = generate(model, inputs)
    for size in {*in_span, *sizes[::3]}:
        assert_same(generate(model, inputs, prefill_chunk_size=size), whole)


@pytest.mark.parametrize("boundary", ["world_start_token_id", "world_end_token_id"])
def test_a_cut_between_a_boundary_and_its_span_is_exact(build_lively: Callable[..., Pair], boundary: str) -> None:
    start = boundary == "world_start_token_id"
    model, processor = build_lively(world_placement="beside_image" if start else "first")
    before = 9 * "What do you see? " * start  # more than half of the prompt: there is one cut only
    text = before + processor.boi_token + "What happens next?"
    inputs = dict(processor(images=[clip(1)], text=text, return_tensors="pt"))
    [at] = (inputs["input_ids"][0] == getattr(model.config, boundary)).nonzero().flatten().tolist()
    size = at + 1 if start else at
    assert size in cuts_outside_blocks(inputs)
    assert_same(generate(model, inputs, prefill_chunk_size=size), generate(model, inputs))


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 2}])
def test_prefill_in_chunks_with_several_rows(
    build_lively: Callable[..., Pair], fusion: str, kwargs: dict[str, Any]
) -> None:
    model, processor = build_lively(world_fusion=fusion, world_attention="causal")
    inputs = encode(processor, [chat(clip(1)), chat(clip(2))])
    whole = answer(model, inputs, **kwargs)
    edges = (inputs["input_ids"][0] == model.config.world_end_token_id).nonzero().flatten().tolist()
    for size in [size for size in cuts_outside_blocks(inputs) if size not in edges][::4]:
        assert torch.equal(answer(model, inputs, prefill_chunk_size=size, **kwargs), whole)


@pytest.mark.parametrize("placement", ["first", "beside_image"])
@pytest.mark.parametrize("new", [[], [picture(7)], [clip(6)]], ids=["text", "picture", "clip"])
def test_a_second_turn_on_the_cache_is_the_whole_conversation_uncached(
    build_lively: Callable[..., Pair], fusion: str, placement: str, new: list[Any]
) -> None:
    model, processor = build_lively(world_fusion=fusion, world_placement=placement)
    first = encode(processor, BOTH)
    said = generate(model, first)
    turn = encode(processor, chat(*new, text="And then?"))
    ids = torch.cat([said.sequences, turn["input_ids"][:, 1:]], dim=1)  # one BOS for the conversation
    both_ways = torch.isin(ids, torch.tensor(processor.image_token_ids))
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": both_ways.long()}
    new_media = {key: turn[key] for key in ("pixel_values", "pixel_values_world") if key in turn}
    media = {key: [*first[key], *turn.get(key, [])] for key in ("pixel_values", "pixel_values_world")}
    media["pixel_values"] = torch.stack(media["pixel_values"])
    with watched(model) as events:
        cached = generate(model, {**whole, **new_media}, past_key_values=said.past_key_values)
    assert sum(items for name, items in events if name == "world") == len(new)
    uncached = generate(model, {**whole, **media}, use_cache=False)
    assert_same(cached, uncached)


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}])
@pytest.mark.parametrize("given", ["world features", "image", "image and world features", "image and world", "world"])
def test_what_was_encoded_before_answers_as_pixels_do(lively: Pair, given: str, kwargs: dict[str, Any]) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    rest, outputs = encoded(model, inputs)
    if given == "world features" or given == "world":
        rest["pixel_values"] = inputs["pixel_values"]
    if given == "image":
        rest["pixel_values_world"] = inputs["pixel_values_world"]
    if "world features" in given:
        rest["world_features"] = outputs["world"].last_hidden_state
    chosen = {key: value for key, value in outputs.items() if key in given and "world features" not in given}
    chosen |= {"image": outputs["image"]} if "image" in given else {}
    if chosen:
        rest["mm_encoder_outputs"] = chosen
    pixels = generate(model, inputs, **kwargs)
    with watched(model) as events:
        assert_same(generate(model, rest, **kwargs), pixels)
    ran = {name for name, _ in events}
    assert ("vision" in ran) == ("image" not in given)
    assert ("world" in ran) == (given == "image")


def test_a_row_without_world_input_may_say_in_a_batch_what_it_says_alone(lively: Pair) -> None:
    model, processor = lively
    bias = {(model.config.world_token_id,): 1e4}
    alone = answer(model, encode(processor, CHATS[2]), sequence_bias=bias)
    together = answer(model, encode(processor, [CHATS[1], CHATS[2]]), sequence_bias=bias)
    assert model.config.world_token_id not in together[0]
    assert torch.equal(together[1:], alone)


def test_world_input_given_twice_is_refused_by_generate_too(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS[1])
    outputs = encoded(model, inputs)[1]
    with pytest.raises(ValueError, match="world input is given twice"):
        generate(model, inputs, mm_encoder_outputs={"world": outputs["world"]})
