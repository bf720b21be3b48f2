"""The demo's training lowers the loss on the answers, and leaves what is frozen as it was."""

from collections.abc import Callable

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, random_clip
from theworld_train.data import Collator, Example
from theworld_train.demo.training import TrainSettings, train
from theworld_train.evaluate.answers import answers

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

WORDS = ["left", "right", "up", "down"]
EXAMPLES = [
    Example(messages=[*chat(random_clip(seed), text="Which way?"), {"role": "assistant", "content": word}])
    for seed, word in enumerate(WORDS)
]


def quiet(done: int, total: int, note: str = "") -> None: ...


SETTINGS = TrainSettings(steps=40, batch_size=4, learning_rate=2e-3, seed=0, warmup_steps=5)


def test_four_examples_are_learnt_by_heart_and_the_encoder_stays(build: Callable[[], Pair]) -> None:
    model, processor = build()
    before = {name: value.clone() for name, value in model.named_parameters()}
    losses = train(model, EXAMPLES, Collator(processor), SETTINGS, report=quiet)
    assert len(losses) == 40
    assert losses[0] > 3
    assert losses[-1] < 0.1
    assert list(answers(model, processor, EXAMPLES)) == WORDS
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == ("world_encoder" in name), name


def test_the_same_seed_gives_the_same_losses(build: Callable[[], Pair]) -> None:
    settings = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, seed=3)
    first, second = (
        train(model, EXAMPLES, Collator(processor), settings, report=quiet) for model, processor in (build(), build())
    )
    assert first == second


def test_nothing_to_train_on(pair: Pair) -> None:
    with pytest.raises(ValueError, match="no examples to train on"):
        train(pair[0], [], Collator(pair[1]), SETTINGS, report=quiet)
