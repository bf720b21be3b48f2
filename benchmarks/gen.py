"""Answers of 32 tokens about one picture: against plain Gemma 3 at equal length, and against the predecessor."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.models import IDS, LENGTH, QUESTION, Size, build, features, geometry, picture, plain, prompt
from benchmarks.predecessor import Predecessor, check_live
from benchmarks.row import Row
from benchmarks.timing import interleaved, medians, ratio
from theworld_fusion import PrefixCache, TheWorldForConditionalGeneration

TOKENS = 32
REPEATS = 15
"""Of what is to be told apart by a few per cent."""
FLOAT32 = {"dtype": "float32"}
"""Where a CPU has instructions for bfloat16, products cost next to nothing and ratios are those of the rest."""


def timed_rows(full: bool) -> Iterator[Row]:
    model = build("mid", dtype=torch.float32)
    given = {**prompt(model), **picture(model)}
    stock, before = plain(model), Predecessor(model)
    check_live(model, before, given)
    model.eval()
    ahead = {**prompt(model), **features(model, picture(model))}
    text = {key: value for key, value in given.items() if key != "pixel_values_world"}
    arms = {
        "plain": lambda: answer(stock, text),
        "ours": lambda: answer(model, given),
        "cached": lambda: answer(model, ahead),
        "predecessor": lambda: before.generate(given, TOKENS),
    }
    same(arms["ours"](), arms["cached"]())
    times = interleaved(arms, REPEATS)
    about: dict[str, Any] = {
        "geometry": {**geometry("mid"), "tokens": TOKENS},
        "arms": medians(times),
        "repeats": REPEATS,
        **FLOAT32,
    }
    yield Row(name="gen.overhead", **ratio(times["ours"], times["plain"]), **about)
    yield Row(name="gen.overhead_cached", **ratio(times["cached"], times["plain"]), **about)
    yield from second_question(model, given)
    yield from against_predecessor("v262k")


def against_predecessor(size: Size) -> Iterator[Row]:
    model = build(size, dtype=torch.float32)
    given = {**prompt(model), **picture(model)}
    before = Predecessor(model)
    check_live(model, before, given)
    model.eval()
    arms = {"ours": lambda: answer(model, given), "predecessor": lambda: before.generate(given, TOKENS)}
    times = interleaved(arms)
    about: dict[str, Any] = {
        "geometry": {**geometry(size), "tokens": TOKENS},
        "arms": medians(times),
        "repeats": 7,
        **FLOAT32,
    }
    yield Row(name="gen.vs_predecessor_v262k", **ratio(times["predecessor"], times["ours"]), **about)


@torch.no_grad()
def answer(model: PreTrainedModel, inputs: dict[str, Any], tokens: int = TOKENS, **settings: Any) -> Tensor:
    """``[b, tokens]``, greedy; ``settings`` are of ``generate``."""
    said: Any = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **settings)  # pyright: ignore
    return said[:, LENGTH:]


def same(one: Tensor, other: Tensor) -> None:
    if not torch.equal(one, other):
        raise RuntimeError(f"two arms answer {one.tolist()} and {other.tolist()}: they do not compute the same.")


def second_question(model: TheWorldForConditionalGeneration, given: dict[str, Tensor]) -> Iterator[Row]:
    """Up to its answer's first token: another question about the picture that the one before it was about."""
    questions = [given, {**given, "input_ids": given["input_ids"].where(places(given) < QUESTION, IDS.word + 500)}]
    kept, turns = PrefixCache(), itertools.cycle(questions)
    answer(model, questions[1], 1, past_key_values=kept)
    for question in questions:
        same(answer(model, question, 8), answer(model, question, 8, past_key_values=kept))
    arms = {
        "first": lambda: answer(model, given, 1, past_key_values=PrefixCache()),
        "second": lambda: answer(model, next(turns), 1, past_key_values=kept),
    }
    times = interleaved(arms)
    about: dict[str, Any] = {"geometry": geometry("mid"), "arms": medians(times), "repeats": 7, **FLOAT32}
    yield Row(name="gen.second_question", **ratio(times["second"], times["first"]), **about)


def places(given: dict[str, Tensor]) -> Tensor:
    return torch.arange(given["input_ids"].shape[1]).expand_as(given["input_ids"])
