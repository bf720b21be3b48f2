"""Operators, waits for the device and batched products of weights, counted in 34 layers as Gemma-3-4B has."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from benchmarks.counters import Counter, count
from benchmarks.models import IDS, build, geometry, labels, picture, plain, prompt
from benchmarks.predecessor import Predecessor, check_live
from benchmarks.row import Row, counted
from theworld_fusion import TheWorldForConditionalGeneration


def counted_rows() -> Iterator[Row]:
    """One prompt's prefill and one decoded token through ``forward``, an answer through ``generate``, a step."""
    model = build("deep")
    stock, before = plain(model), Predecessor(model)
    given = {**prompt(model), **picture(model)}
    check_live(model, before, given)
    model.eval()
    about: dict[str, Any] = {"geometry": geometry("deep")}
    ours, theirs = decode(model, given), decode(stock, _theirs(given))
    arms = {"ours": float(ours.total), "plain": float(theirs.total)}
    yield counted("ops.decode_ratio", ours.total / theirs.total, arms=arms, **about)
    prefills = {
        "ours": count(lambda: model(**given, use_cache=True, logits_to_keep=1)),
        "plain": count(lambda: stock(**_theirs(given), use_cache=True, logits_to_keep=1)),
        "predecessor": count(lambda: before.logits(given, DynamicCache())),
    }
    syncs = {name: float(one.syncs) for name, one in prefills.items()}
    yield counted("ops.syncs_prefill", syncs["ours"], arms=syncs, **about)
    cache = DynamicCache()
    with torch.no_grad():
        before.logits(given, cache)
    steps = {"ours": ours, "plain": theirs, "predecessor": count(lambda: before.step(IDS.word, cache))}
    syncs = {name: float(one.syncs) for name, one in steps.items()}
    yield counted("ops.syncs_decode", syncs["ours"], arms=syncs, **about)
    answers = {
        "ours": count(lambda: model.generate(**given, max_new_tokens=8, do_sample=False)),
        "plain": count(lambda: stock.generate(**_theirs(given), max_new_tokens=8, do_sample=False)),
    }
    syncs = {name: float(one.syncs) for name, one in answers.items()}
    yield counted("ops.syncs_generate", syncs["ours"] - syncs["plain"], arms=syncs, **about)
    products = weight_bmm(model, before, given)
    yield counted("ops.weight_bmm", products["ours"], arms=products, **about)


@torch.no_grad()
def decode(model: PreTrainedModel, given: dict[str, Tensor]) -> Counter:
    """The second decoded token; the first may still set something up."""
    cache = model(**given, use_cache=True, logits_to_keep=1).past_key_values
    token = given["input_ids"].new_full((1, 1), IDS.word)
    for _ in range(2):
        counter = count(lambda: model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1))
    return counter


def weight_bmm(
    model: TheWorldForConditionalGeneration, before: Predecessor, given: dict[str, Tensor]
) -> dict[str, float]:
    """Of a prefill and of a training step of the projector alone."""
    weights, targets = list(model.parameters()), labels(given)
    model.eval()
    found = {
        "ours": [
            count(lambda: model(**given, logits_to_keep=1), weights),
            count(lambda: model.train()(**given, labels=targets, use_cache=False).loss.backward(), weights, grad=True),
        ],
        "predecessor": [count(lambda: before.loss(given, targets).backward(), weights, grad=True)],
    }
    return {name: float(sum(len(one.weight_bmm) for one in counters)) for name, counters in found.items()}


def _theirs(given: dict[str, Any]) -> dict[str, Any]:
    """What plain Gemma 3 takes: at the world's places it has tokens like any other."""
    return {key: value for key, value in given.items() if key != "pixel_values_world"}
