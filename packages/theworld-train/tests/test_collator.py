"""Loss is on the answers and their end-of-turn, and on nothing else."""

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode, random_clip, random_picture
from theworld_train.data import CachingCollator, Collator, Example
from theworld_train.data.features import with_world_features

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


EXAMPLES = [
    Example(messages=[*chat(random_clip(1), text="Which way is it moving?"), said("left")]),
    Example(messages=[*chat(text="Hello"), said("A building with a roof, a flower.")]),
    Example(
        messages=[
            *chat(random_picture(1), random_clip(2), text="Compare."),
            said("They differ."),
            *chat(random_picture(3), text="And this?"),
            said(" Two lines:\nyes, they are. "),
        ]
    ),
]
ANSWERS = ["left", "A building with a roof, a flower.", "They differ.", "Two lines:\nyes, they are."]


@pytest.mark.parametrize("world", ["on", "off"])
def test_supervised_tokens_are_exactly_the_answers(pair: Pair, world) -> None:
    _, processor = pair
    batch = Collator(processor, world=world)(EXAMPLES)
    supervised = [processor.tokenizer.decode(row[row >= 0]) for row in batch["labels"]]
    ended = [f"{text}<end_of_turn>" for text in ANSWERS]
    assert supervised == [ended[0], ended[1], ended[2] + ended[3]]
    assert torch.equal(batch["labels"][batch["labels"] >= 0], batch["input_ids"][batch["labels"] >= 0])


def test_the_prompt_is_the_one_of_generation(pair: Pair) -> None:
    _, processor = pair
    batch = Collator(processor)(EXAMPLES[:1])
    prompt = encode(processor, [EXAMPLES[0].messages[:-1]])
    length = prompt["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:, :length], prompt["input_ids"])
    assert torch.equal(batch["token_type_ids"][:, :length], prompt["token_type_ids"])
    assert (batch["labels"][0, :length] == -100).all()
    assert batch["labels"][0, length] != -100


def test_padding_is_on_the_right_and_carries_nothing(pair: Pair) -> None:
    batch = Collator(pair[1])(EXAMPLES)
    for ids, mask, labels, types in zip(
        *(batch[key] for key in ("input_ids", "attention_mask", "labels", "token_type_ids")), strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (ids[length:] == 0).all()
        assert (labels[length:] == -100).all()
        assert not types[length:].any()


def test_cached_features_give_the_same_loss(pair: Pair) -> None:
    model, processor = pair
    cached = list(with_world_features(EXAMPLES, model.model.world_encoder, processor, batch_size=2))
    live, from_cache = Collator(processor)(EXAMPLES), Collator(processor)(cached)
    assert "pixel_values_world" in live
    assert "pixel_values_world" not in from_cache
    torch.testing.assert_close(model(**live).loss, model(**from_cache).loss)  # encoded in other batches


def test_only_labels_of_answers_matter(pair: Pair) -> None:
    model, processor = pair
    batch = Collator(processor)(EXAMPLES)
    loss = model(**batch).loss
    answers = batch["labels"] >= 0
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(logits[answers[:, 1:]], batch["labels"][:, 1:][answers[:, 1:]])
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([Example(messages=chat(text="Hello"))], "no assistant turn to learn from"),
        (
            [Example(messages=EXAMPLES[0].messages, world_features=(torch.zeros(3, 6, 6, 16),)), EXAMPLES[2]],
            "some examples of a batch have world_features and some do not",
        ),
    ],
)
def test_bad_examples(pair: Pair, examples: list[Example], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Collator(pair[1])(examples)


@pytest.mark.parametrize("world", ["on", "off"])
def test_rows_collated_once_and_joined_are_the_batch(pair: Pair, world) -> None:
    model, processor = pair
    collate = Collator(processor, world=world)
    caching, wanted = CachingCollator(collate), collate(EXAMPLES)
    for _ in range(2):
        joined = caching(EXAMPLES)
        assert set(joined) == set(wanted)
        for key, value in wanted.items():
            assert len(joined[key]) == len(value), key
            assert all(torch.equal(a, b) for a, b in zip(joined[key], value, strict=True)), key
        assert torch.equal(model(**joined).logits, model(**wanted).logits)


@pytest.mark.parametrize("world", ["on", "off"])
def test_what_shows_the_same_is_collated_without_reading_it_again(pair: Pair, world) -> None:
    _, processor = pair
    collate = Collator(processor, world=world)
    for first, frames in ((EXAMPLES[0], [9]), (EXAMPLES[2], [1, 9, 1])):
        other = Example(messages=[*first.messages, *chat(text="Are you sure?"), said("Yes, they are.")])
        wanted, sample = collate([other]), collate([first])
        again = collate.again(other, sample, frames)
        assert again is not None
        assert again.keys() == wanted.keys()
        for name in wanted:
            assert len(again[name]) == len(wanted[name])
            assert all(map(torch.equal, again[name], wanted[name])), name
        assert again["pixel_values"] is sample["pixel_values"]
    assert collate.again(EXAMPLES[0], collate([EXAMPLES[0]]), [1]) is None or world == "off"


def test_an_example_is_rendered_once(pair: Pair) -> None:
    rendered = []

    class Counting(Collator):
        def __call__(self, examples):
            rendered.extend(examples)
            return super().__call__(examples)

    caching = CachingCollator(Counting(pair[1]))
    for _ in range(3):
        caching([EXAMPLES[1], EXAMPLES[0], EXAMPLES[1]])
    assert rendered == [EXAMPLES[1], EXAMPLES[0]]


def test_features_computed_before_are_joined_too(pair: Pair) -> None:
    model, processor = pair
    encoded = list(with_world_features([EXAMPLES[0], EXAMPLES[2]], model.model.world_encoder, processor))
    collate = Collator(processor)
    torch.testing.assert_close(
        model(**CachingCollator(collate)(encoded)).logits, model(**collate(encoded)).logits, rtol=0, atol=0
    )
