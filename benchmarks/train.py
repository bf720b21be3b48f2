"""Training steps of the world projector alone, two samples each: the predecessor's time and memory over ours."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gen import FLOAT32, REPEATS
from benchmarks.models import Size, build, features, geometry, labels, picture, prompt
from benchmarks.predecessor import Predecessor, check_live
from benchmarks.row import Row
from benchmarks.timing import interleaved, medians, peak_megabytes, ratio
from theworld_fusion import TheWorldForConditionalGeneration

BATCH = 2


def timed_rows(full: bool) -> Iterator[Row]:
    yield from steps("mid")
    if full:
        yield from steps("v262k")
        peaks = {name: peak_megabytes(one_step, name) for name in ("predecessor", "cached", "live")}
        value = peaks["predecessor"] / peaks["cached"]
        about: dict[str, Any] = {"geometry": geometry("v262k", BATCH), "arms": peaks}
        yield Row(name="train.peak_ratio", value=value, low=value, high=value, **about)


def steps(size: Size) -> Iterator[Row]:
    model = build(size, dtype=torch.float32)
    arms = all_arms(model)
    losses = {name: work() for name, work in arms.items()}
    if max(losses.values()) - min(losses.values()) > 0.01 * max(losses.values()):
        raise RuntimeError(f"the arms' losses are {losses}: they do not compute the same.")
    times = interleaved(arms, REPEATS)
    about: dict[str, Any] = {"geometry": geometry(size, BATCH), "arms": medians(times), "repeats": REPEATS, **FLOAT32}
    before = times["predecessor"]
    yield Row(name=f"train.step_vs_predecessor_{size}", **ratio(before, times["cached"]), **about)
    yield Row(name=f"train.step_vs_predecessor_{size}_live", **ratio(before, times["live"]), **about)
    if size == "mid":
        yield Row(name="train.cached_epoch", **ratio(times["live"], times["cached"]), **about)
        yield Row(name="train.cached_epoch_world", **ratio(times["live"], times["world_cached"]), **about)


def all_arms(model: TheWorldForConditionalGeneration, batch: int = BATCH) -> dict[str, Callable[[], float]]:
    """Steps forwards and backwards, each giving its loss."""
    inputs, pixels = prompt(model, batch), picture(model, batch)
    targets = labels(inputs)
    before = Predecessor(model)
    check_live(model, before, {**inputs, **pixels})
    given: dict[str, dict[str, Any]] = {
        "live": pixels,
        "world_cached": features(model, pixels),
        "cached": features(model, pixels, vision=True),
    }

    def step(loss: Callable[[], Tensor]) -> float:
        model.train().zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.item()

    def ours(name: str) -> Callable[[], float]:
        return lambda: step(lambda: model(**inputs, **given[name], labels=targets, use_cache=False).loss)

    arms: dict[str, Callable[[], float]] = {name: ours(name) for name in given}
    return {**arms, "predecessor": lambda: step(lambda: before.loss({**inputs, **pixels}, targets))}


def one_step(name: str) -> Callable[[], float]:
    """Of one arm, at the whole vocabulary under a small language model, in a process of its own."""
    torch.set_num_threads(1)
    return all_arms(build("v262k"))[name]
