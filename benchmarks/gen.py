"""Answers of 32 tokens about one picture: against plain Gemma 3 at equal length, and against the predecessor."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.models import LENGTH, Size, build, features, geometry, picture, plain, prompt
from benchmarks.ops import check_live
from benchmarks.predecessor import Predecessor
from benchmarks.row import Row
from benchmarks.timing import interleaved, medians, ratio

TOKENS = 32


def timed_rows(full: bool) -> Iterator[Row]:
    model = build("mid")
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
    times = interleaved(arms, repeats=9)
    about: dict[str, Any] = {"geometry": {**geometry("mid"), "tokens": TOKENS}, "arms": medians(times), "repeats": 9}
    yield Row(name="gen.overhead", **ratio(times["ours"], times["plain"]), **about)
    yield Row(name="gen.overhead_cached", **ratio(times["cached"], times["plain"]), **about)
    yield from second_question("mid")
    yield from against_predecessor("v262k")


def against_predecessor(size: Size) -> Iterator[Row]:
    model = build(size)
    given = {**prompt(model), **picture(model)}
    before = Predecessor(model)
    check_live(model, before, given)
    model.eval()
    arms = {"ours": lambda: answer(model, given), "predecessor": lambda: before.generate(given, TOKENS)}
    times = interleaved(arms)
    about: dict[str, Any] = {"geometry": {**geometry(size), "tokens": TOKENS}, "arms": medians(times), "repeats": 7}
    yield Row(name="gen.vs_predecessor_v262k", **ratio(times["predecessor"], times["ours"]), **about)


@torch.no_grad()
def answer(model: PreTrainedModel, inputs: dict[str, Any], tokens: int = TOKENS, **settings: Any) -> Tensor:
    """``[b, tokens]``, greedy; ``settings`` are of ``generate``."""
    said: Any = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **settings)  # pyright: ignore
    return said[:, LENGTH:]


def same(one: Tensor, other: Tensor) -> None:
    if not torch.equal(one, other):
        raise RuntimeError(f"two arms answer {one.tolist()} and {other.tolist()}: they do not compute the same.")


def second_question(size: Size) -> Iterator[Row]:
    yield from ()
