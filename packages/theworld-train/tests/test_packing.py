"""Several conversations in a row learn what they learn in rows of their own: the same loss, the same gradients."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from theworld_encoders import FeatureCache, load_image
from theworld_encoders.features import encoder_key
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD, chat, random_clip, random_picture
from theworld_train.data import Collator, Example, maker
from theworld_train.data.collator import join
from theworld_train.data.cursor import numbered
from theworld_train.data.example import FEATURES
from theworld_train.data.features import with_world_features
from theworld_train.data.maker import BatchMaker
from theworld_train.data.packing import Outline, Rows, answer_mark, pack
from theworld_train.data.sources import open_source
from theworld_train.media import media_of_chat
from theworld_train.recipe import BatchSettings, DataSettings
from theworld_train.recipe_file import load_recipe
from theworld_train.run import run_recipe
from theworld_train.vision import picture_features, picture_pixels, vision_key

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

MOST = 400
LOSS, GRADIENT = 1e-6, 1e-4
"""Of float32, relative: of the loss, and of a parameter's gradient by its largest entry.

The rows in one padded batch differ from the rows one by one by as much.
"""


def asked(*items: Any, text: str, answer: str, before: str | None = None) -> list[dict[str, Any]]:
    """A question about items and its answer; ``before`` stands before the items."""
    (turn,) = chat(*items, text=text)
    if before is not None:
        turn["content"].insert(0, {"type": "text", "text": before})
    return [turn, {"role": "assistant", "content": answer}]


def examples(*chats: list[dict[str, Any]]) -> list[Example]:
    return [Example(messages=messages) for messages in chats]


def picture() -> Any:
    return random_picture(1)


PICTURE = examples(
    asked(picture(), text="Which way is it moving?", answer="left"),
    asked(picture(), text="Which one is faster, the red one or the blue one?", answer="the blue one"),
    asked(picture(), text="How many?", answer="two"),
)
CLIP = examples(
    asked(random_clip(2), text="What happens next?", answer="The ball rolls on."),
    asked(random_clip(2), text="What colour is it?", answer="red"),
)
SEVERAL = examples(
    asked(picture(), random_clip(2), random_picture(3), text="Compare.", answer="They differ."),
    asked(picture(), random_clip(2), random_picture(3), text="What shape is it?", answer="a circle"),
)
TEXT = examples(
    asked(text="Hello", answer="A building with a roof."), asked(text="What is it?", answer="a small red ball")
)
QUESTION_FIRST = examples(
    asked(picture(), before="Is it red?", text="Say.", answer="yes"),
    asked(picture(), before="Does it move?", text="Say.", answer="no"),
)
LATER_PICTURE = examples(
    [*asked(picture(), text="What is it?", answer="a cat"), *asked(random_picture(4), text="And this?", answer="one")],
    [*asked(picture(), text="How many?", answer="two"), *asked(random_picture(4), text="And this?", answer="a cat")],
)
SAME_QUESTION = examples(
    asked(picture(), text="What is it?", answer="a cat"),
    asked(picture(), text="What is it?", answer="a cat and a cup"),
)
OTHER_PICTURE = examples(asked(random_picture(5), text="Which way is it moving?", answer="right"))
CASES = {
    "picture": PICTURE,
    "clip": CLIP,
    "several": SEVERAL,
    "text": TEXT,
    "question first": QUESTION_FIRST,
    "later picture": LATER_PICTURE,
    "same question": SAME_QUESTION,
    "all": [*PICTURE, *TEXT, *OTHER_PICTURE, *CLIP, *QUESTION_FIRST, *LATER_PICTURE, *SAME_QUESTION],
}


def packed(processor: TheWorldProcessor, given: Sequence[Example], packing: Any, most: int = MOST) -> dict[str, Any]:
    collate, rows = Collator(processor), Rows(packing, most)
    samples = [collate([one]) for one in given]
    for one, sample in zip(given, samples, strict=True):
        media = tuple(media_of_chat(one.messages))
        rows.add(Outline.of(sample["input_ids"][0].numpy(), answer_mark(processor), media))
    return pack(samples, rows, processor)


def images_of(model: Any, processor: TheWorldProcessor, example: Example) -> tuple[torch.Tensor, ...]:
    """What the vision tower makes of each item."""
    items = [item for _, item in media_of_chat(example.messages)]
    return tuple(picture_features(model, picture_pixels(processor, item)) for item in items)


def learnt(model: TheWorldForConditionalGeneration, batches: Sequence[dict[str, Any]], count: int) -> Any:
    """Loss and gradients of all batches together, divided by ``count`` labelled tokens."""
    model.zero_grad()
    losses = [model(**batch, num_items_in_batch=count, skip_logits=True).loss for batch in batches]
    loss = torch.stack(losses).sum()
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return loss.item(), {name: gradient.clone() for name, gradient in gradients.items()}


def assert_equal(model: TheWorldForConditionalGeneration, processor: TheWorldProcessor, given: Any, batch: Any) -> None:
    """The packed batch teaches what the conversations teach in rows of their own."""
    collate = Collator(processor)
    apart = [collate([one]) for one in given]
    count = sum(int((one["labels"] >= 0).sum()) for one in apart)
    assert int((batch["labels"][:, 1:] >= 0).sum()) == count  # what Trainer divides by
    loss, gradients = learnt(model, apart, count)
    loss_packed, gradients_packed = learnt(model, [batch], count)
    assert abs(loss_packed - loss) <= LOSS * loss
    assert gradients.keys() == gradients_packed.keys()
    # Attention's key biases and what a norm takes out have no gradient but rounding's: hence the floor.
    floor = 1e-6 * max(float(wanted.abs().max()) for wanted in gradients.values())
    for name, wanted in gradients.items():
        differ = float((gradients_packed[name] - wanted).abs().max())
        assert differ <= GRADIENT * float(wanted.abs().max()) + floor, name


@pytest.fixture(scope="module")
def learner(folders: tuple[Path, Path]) -> Callable[..., Pair]:
    """Makes a model that trains every weight, whose window is shorter than a world span and than any row."""

    def learner(window: int = 20, **overrides: Any) -> Pair:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, processor = assemble(*folders, **{**TINY_WORLD, **overrides})
        model.requires_grad_(True).train()
        model.config.text_config.sliding_window = window
        if hasattr(model.model, "world_gate"):
            torch.nn.init.ones_(model.model.world_gate.bias)
        return model, processor

    return learner


@pytest.mark.parametrize("packing", ["samples", "shared_prefix"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("placement", ["first", "beside_image"])
def test_loss_and_gradients_are_those_of_separate_rows(learner: Any, placement: str, case: str, packing: str) -> None:
    model, processor = learner(world_placement=placement)
    batch = packed(processor, CASES[case], packing)
    assert len(batch["input_ids"]) < len(CASES[case])
    assert_equal(model, processor, CASES[case], batch)


@pytest.mark.parametrize("packing", ["samples", "shared_prefix"])
@pytest.mark.parametrize(
    "overrides", [{"world_attention": "causal"}, {"world_fusion": "gated"}, {"world_fusion": "none"}, {"window": 500}]
)
def test_so_they_are_in_other_models(learner: Any, overrides: dict[str, Any], packing: str) -> None:
    model, processor = learner(**overrides)
    assert_equal(model, processor, CASES["all"], packed(processor, CASES["all"], packing))


def test_so_they_are_with_eager_attention_and_with_checkpointing(learner: Any) -> None:
    model, processor = learner()
    model.set_attn_implementation("eager")
    assert_equal(model, processor, CASES["all"], packed(processor, CASES["all"], "shared_prefix"))
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_equal(model, processor, CASES["all"], packed(processor, CASES["all"], "shared_prefix"))


def test_the_window_and_the_mask_matter_here(learner: Any) -> None:
    """Were the window counted by places in the row, or the mask plain, the loss would be another."""
    model, processor = learner()
    batch = packed(processor, PICTURE, "shared_prefix")
    count = int((batch["labels"] >= 0).sum())
    loss, _ = learnt(model, [batch], count)
    places = {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1])[None]}
    plain = {**batch, "visible_until": torch.full_like(batch["visible_until"], batch["input_ids"].shape[1])}
    for other in (places, plain):
        assert abs(learnt(model, [other], count)[0] - loss) > 1000 * LOSS * loss


@pytest.mark.parametrize(("packing", "items"), [("samples", 16), ("shared_prefix", 9)])
def test_features_computed_before_go_with_their_conversations(learner: Any, packing: str, items: int) -> None:
    model, processor = learner()
    given = [*PICTURE, *CLIP, *OTHER_PICTURE, *TEXT, *SEVERAL, *LATER_PICTURE]
    world = list(with_world_features(given, model.model.world_encoder, processor))
    both = [replace(one, image_features=images_of(model, processor, one)) for one in world]
    batches = [packed(processor, one, packing, most=600) for one in (given, world, both)]
    kinds = [{"pixel_values", "pixel_values_world"}, {"pixel_values", "world_features"}, set(FEATURES)]
    count = int((batches[0]["labels"] >= 0).sum())
    losses = [learnt(model, [batch], count)[0] for batch in batches]
    assert losses == pytest.approx(losses[:1] * 3, rel=LOSS)
    for batch, names in zip(batches, kinds, strict=True):
        assert {name for name in batch if "pixel" in name or "features" in name} == names
        assert [len(batch[name]) for name in names] == [items, items]


def test_what_is_shared_stands_once(learner: Any) -> None:
    _, processor = learner()
    batch = packed(processor, PICTURE, "shared_prefix")
    for token_id, count in ((processor.tokenizer.image_token_id, 16), (processor.world_token_id, 36)):
        assert int((batch["input_ids"] == token_id).sum()) == count
    assert len(batch["pixel_values"]) == len(batch["pixel_values_world"]) == 1
    answers = processor.tokenizer.decode(batch["labels"][batch["labels"] >= 0])
    assert answers == "left<end_of_turn>the blue one<end_of_turn>two<end_of_turn>"


def test_other_pictures_are_never_shared(learner: Any) -> None:
    """The tokens of two pictures are alike; their features are not."""
    _, processor = learner()
    given = [PICTURE[0], *OTHER_PICTURE]
    batch = packed(processor, given, "shared_prefix")
    assert len(batch["pixel_values"]) == 2
    wanted = packed(processor, given, "samples")
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_first_fit() -> None:
    def outline(tokens: int) -> Outline:
        return Outline(ids=torch.arange(tokens).numpy(), prompt=0)

    rows = Rows("samples", 10)
    for tokens in (6, 7, 4, 3, 12, 1, 0):
        rows.add(outline(tokens))
    assert [[tree.members for tree in row] for row in rows.rows] == [[[0], [2]], [[1], [3]], [[4]], [[5], [6]]]
    assert rows.sizes == [10, 10, 12, 2]
    assert rows.padded == 48


def test_no_row_is_longer_than_allowed(learner: Any) -> None:
    _, processor = learner()
    for packing in ("samples", "shared_prefix"):
        batch = packed(processor, [*CASES["all"], *CASES["all"]], packing, most=160)
        assert batch["input_ids"].shape[1] <= 160
        assert int((batch["attention_mask"] == 0).sum()) < batch["input_ids"].numel() / 3


QUESTIONS = 4
"""About each of three pictures, and one without."""


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    lines = []
    for number in range(3 * QUESTIONS):
        random_picture(number % 3).save(folder / f"{number % 3}.png")
        blocks = [{"type": "image", "image": f"{number % 3}.png"}, {"type": "text", "text": f"What is {number}?"}]
        lines.append([{"role": "user", "content": blocks}, {"role": "assistant", "content": f"answer {number}"}])
    lines.append([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}])
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    return folder


def run(chats: Path, out: Path, *changes: str) -> tuple[list[float], dict[str, Any]]:
    """Losses of some steps, and what was consumed."""
    source = f"stages.0.data.sources=[{{kind: chat, path: {chats}}}]"
    parts = "stages.0.parts={world_projector: {}, image_projector: {}, language_model: {}}"
    run_recipe(
        load_recipe("smoke", [source, parts, "stages.0.steps=5", "save.every=5", *changes]), out, report=lambda *_: None
    )
    logged = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    return logged, json.loads((out / "checkpoint-5" / "progress-0.json").read_text())


@pytest.mark.parametrize(
    ("batch", "packing"),
    [("size: 6, accumulate: 2", "samples"), ("size: 6, accumulate: 2", "shared_prefix"), ("tokens: 600", "samples")],
)
def test_a_run_with_packed_rows_learns_what_one_without_does(
    chats: Path, tmp_path: Path, packing: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = f"batch={{{batch}, packing: {packing}, row_tokens: 300}}"
    losses, consumed = run(chats, tmp_path / "packed", change)
    monkeypatch.setattr(maker, "pack", lambda samples, rows, processor: join(samples, processor.tokenizer.pad_token_id))
    wanted, apart = run(chats, tmp_path / "apart", change)
    assert losses == pytest.approx(wanted, rel=1e-4)
    assert (consumed["digest"], consumed["examples"]) == (apart["digest"], apart["examples"])
    if packing == "samples":
        assert consumed["tokens"] == apart["tokens"]
    else:
        assert consumed["tokens"] < 0.7 * apart["tokens"]


@pytest.fixture
def cached(chats: Path, pair: Pair, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Features of the three pictures, and whose they are."""
    model, processor = pair
    parts = (model.model.world_encoder, model.model.vision_tower)
    trained = [one for part in parts for one in part.parameters() if one.requires_grad]
    for one in trained:
        one.requires_grad_(False)
    keys = {"encoder_key": encoder_key(parts[0]), "vision_key": vision_key(model, processor)}
    for one in trained:
        one.requires_grad_(True)
    pictures = [chats / f"{number}.png" for number in range(3)]
    with FeatureCache(tmp_path / "world", keys["encoder_key"]) as cache:
        for one in pictures:
            pixels = processor(images=[[Image.open(one)]], return_tensors="pt")["pixel_values_world"]
            cache.put(cache.key(one), model.get_world_features(pixels).last_hidden_state[0].detach())
    for folder, kept in (("some", pictures[:2]), ("all", pictures)):
        with FeatureCache(tmp_path / folder, keys["vision_key"]) as cache:
            for one in kept:
                pixels = picture_pixels(processor, load_image(one))
                cache.put(cache.key(one), picture_features(model, pixels))
    return tmp_path, keys


@pytest.mark.parametrize("remember", [0, 99])
@pytest.mark.parametrize("packing", ["samples", "shared_prefix"])
def test_packed_batches_read_both_caches(
    chats: Path, cached: tuple[Path, dict[str, str]], pair: Pair, packing: str, remember: int, monkeypatch: Any
) -> None:
    """With all features no picture is read; where the one kind misses some, the batch has the other kind still."""
    (folder, keys), (model, processor) = cached, pair
    batch = BatchSettings.model_validate({"size": 13, "packing": packing, "row_tokens": 300})
    data = DataSettings.model_validate({"sources": [{"kind": "chat", "path": str(chats)}], "remember": remember})
    source = open_source(data.sources[0], num_frames=9)
    draws = [numbered(source, number) for number in range(3 * QUESTIONS + 1)]
    live = BatchMaker(data, processor, batch=batch)(draws)
    makers = {}
    for name in ("some", "all"):
        update = {"cache": str(folder / "world"), "vision_cache": str(folder / name)}
        makers[name] = BatchMaker(data.model_copy(update=update), processor, batch=batch, **keys)
    some, again = makers["some"](draws), makers["some"](draws)
    first_two = makers["some"](known := [draw for draw in draws if draw.number % 3 != 2])
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture is read"))
    found, repeated = makers["all"](draws), makers["all"](draws)
    pictures = 3 if packing == "shared_prefix" else 3 * QUESTIONS
    for one, names, misses in (
        (live, {"pixel_values", "pixel_values_world"}, 0),
        (some, {"pixel_values", "world_features"}, pictures // 3),
        (again, {"pixel_values", "world_features"}, pictures // 3),
        (found, set(FEATURES), 0),
        (repeated, set(FEATURES), 0),
    ):
        assert {name for name in one.inputs if "pixel" in name or "features" in name} == names
        assert one.cache_misses == misses
        assert one.keys == live.keys
        assert all(torch.equal(one.inputs[name], live.inputs[name]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            losses = [model(**made.inputs, skip_logits=True).loss.item() for made in (live, one)]
        assert losses[1] == pytest.approx(losses[0], rel=LOSS)
    assert len(first_two.keys) == len(known)
    assert first_two.inputs.keys() >= set(FEATURES)


def test_ten_questions_about_a_picture_at_full_size() -> None:
    """784 world and 256 image tokens, five around them, and ten times 55 of text: 1,595 tokens and not 11,000."""
    beginning, text = 1045, 55
    rows = Rows("shared_prefix", 4096)
    for number in range(10):
        ids = torch.cat([torch.arange(beginning), torch.full((text,), 5000 + number)])
        rows.add(Outline(ids=ids.numpy(), prompt=beginning + 20, media=("a.jpg",)))
    assert rows.sizes == [1595]
    assert 10 * (beginning + text) == 11_000
