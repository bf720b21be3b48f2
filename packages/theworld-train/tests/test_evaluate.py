"""Answers, controls and intervals."""

from collections.abc import Callable

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, random_clip
from theworld_train.data import Collator, Example
from theworld_train.data.features import with_world_features
from theworld_train.demo.training import TrainSettings, train
from theworld_train.evaluate.answers import answers, choose
from theworld_train.evaluate.controls import noise, other_item
from theworld_train.evaluate.held_out import HeldOut
from theworld_train.evaluate.statistics import Accuracy, accuracy

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

WORDS = ["left", "right", "up", "down"]
EXAMPLES = [
    Example(
        messages=[
            *chat(random_clip(seed), text="Which way is it " + "really " * seed + "moving?"),
            {"role": "assistant", "content": word},
        ]
    )
    for seed, word in enumerate(WORDS)
]


@pytest.fixture(scope="module")
def learnt(build: Callable[[], Pair], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model that knows the examples by heart, so that its answers are words."""
    model, processor = build()
    settings = TrainSettings(steps=40, batch_size=4, learning_rate=2e-3, seed=0, warmup_steps=5)
    train(model, EXAMPLES, Collator(processor), settings, report=lambda *_: None)
    return model, processor


@pytest.fixture(scope="module")
def encoded(pair: Pair) -> list[Example]:
    return list(with_world_features(EXAMPLES, pair[0].model.world_encoder, pair[1]))


def test_answers_do_not_depend_on_the_batch(learnt: Pair, encoded: list[Example]) -> None:
    for batch_size in (1, 3, 4):
        assert list(answers(*learnt, encoded, batch_size=batch_size)) == WORDS
    assert list(answers(*learnt, EXAMPLES, batch_size=3)) == WORDS


def test_choose_finds_what_was_learnt_and_never_leaves_the_choices(learnt: Pair, encoded: list[Example]) -> None:
    for batch_size in (3, 64):
        assert list(choose(*learnt, encoded, [WORDS] * 4, batch_size=batch_size)) == WORDS
    assert list(choose(*learnt, encoded, [["yes", "no"]] * 4)) != WORDS
    assert set(choose(*learnt, noise(encoded, seed=0), [["yes", "no"]] * 4)) <= {"yes", "no"}


def test_the_loss_on_held_out_examples_is_that_of_all_logits_and_needs_none_of_them(
    pair: Pair, encoded: list[Example]
) -> None:
    model, processor = pair
    model.eval()
    with torch.no_grad():
        wanted = float(model(**Collator(processor)(encoded)).loss)
    seen: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda head, inputs, logits: seen.append(logits[..., 0].numel()))
    try:
        for batch_size in (1, 3, 4):
            held = HeldOut(encoded, processor, world="on", batch_size=batch_size)
            assert held.loss(model) == pytest.approx(wanted, rel=1e-5)
    finally:
        handle.remove()
    assert sum(seen) == 3 * sum(int((Collator(processor)([one])["labels"] >= 0).sum()) for one in encoded)


def test_off_leaves_the_world_out(learnt: Pair, encoded: list[Example]) -> None:
    plain = list(answers(*learnt, EXAMPLES, world="off"))
    assert plain == list(answers(*learnt, encoded, world="off"))
    assert plain == list(answers(*learnt, noise(encoded, seed=0), world="off"))


def test_a_world_that_does_not_reach_the_model_is_an_error(pair: Pair) -> None:
    blind = [Example(messages=[*chat(text="Hello"), {"role": "assistant", "content": "Hi"}])]
    with pytest.raises(ValueError, match="the world is on, but a prompt has no world tokens"):
        list(answers(*pair, blind))


def test_other_item_takes_features_of_another_group(encoded: list[Example]) -> None:
    groups = [0, 0, 1, 1]
    swapped = other_item(encoded * 25, groups * 25, seed=0)
    sources = []
    for example, group in zip(swapped, groups * 25, strict=True):
        [source] = [i for i in range(4) if torch.equal(example.world_features[0], encoded[i].world_features[0])]
        assert groups[source] != group
        sources.append(source)
    assert set(sources) == {0, 1, 2, 3}
    assert [one.messages for one in swapped] == [one.messages for one in encoded * 25]
    with pytest.raises(ValueError, match="1 group"):
        other_item(encoded, [0] * 4, seed=0)


def test_noise_has_the_features_shape_and_scale_and_none_of_their_content(encoded: list[Example]) -> None:
    noisy = noise(encoded * 20, seed=0)
    real = torch.cat([one.world_features[0].flatten(0, -2) for one in encoded])
    drawn = torch.cat([one.world_features[0].flatten(0, -2) for one in noisy])
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), real.std(0), atol=0.1, rtol=0)
    assert not torch.equal(noisy[0].world_features[0], noisy[4].world_features[0])
    assert torch.equal(noise(encoded, seed=1)[0].world_features[0], noise(encoded, seed=1)[0].world_features[0])
    with pytest.raises(ValueError, match="no world features to swap"):
        noise(EXAMPLES, seed=0)


def test_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 15 of 148
    low, high = Accuracy(correct=15, total=148, chance=0.5).interval()
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)


def test_accuracy_sums_up() -> None:
    score = accuracy([(True, 0.25), (False, 0.25), (True, 0.5), (True, 0.5)])
    assert (score.correct, score.total, score.chance, score.value) == (3, 4, 0.375, 0.75)
    with pytest.raises(ValueError, match="no answers to score"):
        accuracy([])
