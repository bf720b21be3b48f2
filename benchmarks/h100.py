"""The real sizes on one accelerator, random weights in bfloat16: Gemma-3-4B with the Cosmos-Predict2 encoder.

The same arithmetic as with published weights. Times are between events on the device, arms taking turns; the bounds are
for one H100. Without an accelerator there is nothing to measure and nothing is printed.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.flops import count_training
from benchmarks.gen import answer
from benchmarks.models import Size, build, features, geometry, picture, plain, prompt
from benchmarks.predecessor import Predecessor, check_live, diffusers_vae
from benchmarks.row import Row, counted
from benchmarks.timing import interleaved, medians, ratio
from benchmarks.train import all_arms
from benchmarks.vae import clip, reference
from theworld_fusion import TheWorldForConditionalGeneration

PEAK = 989.0
"""TFLOP/s of an H100 SXM in dense bfloat16, by its data sheet."""
TOKENS = 32


def timed_rows(full: bool, *, device: str = "cuda", size: Size = "full") -> Iterator[Row]:
    """``device`` and ``size`` are for trying this out where there is no accelerator."""
    if device == "cuda" and not torch.cuda.is_available():
        return
    about: dict[str, Any] = {"device": device}
    model = build(size, device=device)
    yield from answers(model, size, about)
    yield from encoders(model, about)
    yield from training(model, size, about, batch=8 if full else 2)


def answers(model: TheWorldForConditionalGeneration, size: Size, about: dict[str, Any]) -> Iterator[Row]:
    """Prefill, whole answers and decoding."""
    stock = plain(model)
    given = {**prompt(model), **picture(model)}
    check_live(model, Predecessor(model), given)
    model.eval()
    text = {key: value for key, value in given.items() if key != "pixel_values_world"}
    times = clocked({"ours": lambda: answer(model, given, 1), "plain": lambda: answer(stock, text, 1)})
    about = {**about, "geometry": geometry(size), "repeats": len(times["ours"])}
    yield Row(name="h100.prefill_b1", **in_unit(times["ours"], 1e-3), arms=medians(times, 1e-3), **about)
    times = clocked({"ours": lambda: answer(model, given), "plain": lambda: answer(stock, text)})
    yield Row(name="h100.gen_overhead", **ratio(times["ours"], times["plain"]), arms=medians(times), **about)
    times, steps = decoding(model, given)
    yield Row(name="h100.decode_b1", **in_unit(steps, 1e-3), arms=medians(times), **about)
    many = {key: value.repeat(32, *[1] * (value.ndim - 1)) for key, value in given.items()}
    times, steps = decoding(model, many)
    rates, about = [32 / seconds for seconds in steps], {**about, "geometry": geometry(size, 32)}
    yield Row(name="h100.decode_b32", **in_unit(rates, 1.0), arms=medians(times), **about)


def decoding(
    model: TheWorldForConditionalGeneration, inputs: dict[str, Any]
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of a short and of a long answer on a static cache, and of a token by what they differ."""
    lengths = {"short": TOKENS, "long": 4 * TOKENS}
    times = clocked(
        {name: partial(answer, model, inputs, n, cache_implementation="static") for name, n in lengths.items()}
    )
    between = lengths["long"] - lengths["short"]
    return times, [(more - less) / between for less, more in zip(times["short"], times["long"], strict=True)]


@torch.no_grad()
def encoders(model: TheWorldForConditionalGeneration, about: dict[str, Any]) -> Iterator[Row]:
    ours: Any = model.model.world_encoder
    theirs = diffusers_vae(ours)
    for name, items, frames in (("h100.vae_t1", 32, 1), ("h100.vae_video", 1, 17)):
        pixels = clip(frames, 224, model.dtype).repeat(items, 1, 1, 1, 1).to(model.device)
        times = clocked({"ours": partial(ours, pixels), "diffusers": partial(reference, theirs, pixels)})
        rates = {arm: [items * frames / seconds for seconds in values] for arm, values in times.items()}
        shape = {"geometry": {"items": items, "frames": frames, "size": 224}, "repeats": len(times["ours"])}
        yield Row(name=name, **in_unit(rates["ours"], 1.0), arms=medians(rates), **shape, **about)


def training(model: TheWorldForConditionalGeneration, size: Size, about: dict[str, Any], batch: int) -> Iterator[Row]:
    """Steps of the projector alone on cached features: share of the device's peak, against the predecessor, memory."""
    arms = all_arms(model, batch)
    times = clocked({name: arms[name] for name in ("cached", "predecessor")})
    necessary = batch * count_training(size)
    shares = [necessary / seconds / (PEAK * 1e12) for seconds in times["cached"]]
    about = {**about, "geometry": geometry(size, batch), "repeats": len(shares)}
    yield Row(name="h100.train_mfu", **in_unit(shares, 1.0), arms=medians(times), **about)
    yield Row(
        name="h100.train_vs_predecessor", **ratio(times["predecessor"], times["cached"]), arms=medians(times), **about
    )
    if model.device.type == "cuda":
        peaks = {name: peak_gigabytes(arms[name]) for name in ("cached", "predecessor")}
        yield counted("h100.train_peak", peaks["cached"], arms=peaks, **about)
    yield counted("h100.syncs", syncs(model, batch), **about)


def syncs(model: TheWorldForConditionalGeneration, batch: int) -> int:
    """1 if a forward pass of training or a decoded token waits for the device, else 0; the device itself tells."""
    inputs = {**prompt(model, batch), **features(model, picture(model, batch), vision=True)}
    model.eval()
    with torch.no_grad():
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        token = inputs["input_ids"][:, -1:]
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(**inputs, use_cache=True, logits_to_keep=1)
            model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            return 1
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return 0


def clocked(arms: Mapping[str, Callable[[], Any]], warm: int = 10, repeats: int = 30) -> dict[str, list[float]]:
    """Seconds between events on the device; without one, processor seconds, seven times."""
    if not torch.cuda.is_available():
        return interleaved(arms)
    for work in arms.values():
        for _ in range(warm):
            work()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, work in arms.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) / 1e3)
    return times


def peak_gigabytes(work: Callable[[], Any]) -> float:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 1e9


def in_unit(values: list[float], unit: float) -> dict[str, float]:
    """Median and interval, each divided by ``unit``."""
    return {**ratio(values, [unit] * len(values)), "value": statistics.median(values) / unit}
