"""All changes of the world input, for many examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from theworld_encoders import EncoderSpec, preprocess
from theworld_encoders.source import load_source
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.data import Example
from theworld_train.data.features import with_world_features
from theworld_train.data.lazy import load_chat
from theworld_train.errors import UsageError
from theworld_train.evaluate.sensitivity import changes
from theworld_train.evaluate.sensitivity.attention import attention_mass
from theworld_train.evaluate.sensitivity.likelihood import Features, Prompt, log_probabilities, make_prompt, own_answer
from theworld_train.evaluate.sensitivity.result import Map, Measured, Sensitivity
from theworld_train.jobs import Report
from theworld_train.media import Medium, media_of_chat


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings:
    """What is measured.

    Attributes:
        own_answers: measure what the model itself answers, greedily, even where an answer is given.
        maps: how many examples get a map of what each region is worth, at ``cells`` x ``cells`` passes each.
        fill: what takes a region's place.
        seed: of noise, of who the other example is, and of resamplings.
    """

    own_answers: bool = False
    maps: int = 8
    cells: int = 7
    fill: changes.Fill = "mean"
    max_new_tokens: int = 32
    seed: int = 0


def measure(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    examples: Sequence[Example],
    settings: SensitivitySettings | None = None,
    *,
    name: str = "",
    report: Report = lambda done, total, note="": None,
) -> Sensitivity:
    """How much the likelihood of each example's answers depends on its world input.

    Args:
        examples: conversations; one that does not end with an answer gets the model's own.
        name: what the report calls the model.

    Raises:
        UsageError: the model has no world branch, or no example shows anything.
    """
    settings = settings or SensitivitySettings()
    if model.config.world_fusion == "none":
        raise UsageError(
            "the model has no world branch (world_fusion is 'none'), so there is nothing to take away. Give one that "
            "was assembled with world_fusion 'sequence' or 'gated'."
        )
    model.eval()
    shown = [example for example in examples if any(media_of_chat(example.messages))]
    if not shown:
        raise UsageError(f"none of {len(examples)} examples has a picture or clip. Give some that have.")
    shown = [replace(one, messages=load_chat(one.messages)) for one in shown]
    encoded = list(with_world_features(shown, model.model.world_encoder, processor))
    encoded = _answered(model, processor, encoded, settings)
    swapped = changes.others(encoded, seed=settings.seed)
    noisy = changes.noises(encoded, seed=settings.seed)
    measured = []
    for place, (example, other, noise) in enumerate(zip(encoded, swapped, noisy, strict=True)):
        measured.append(_measure(model, processor, example, other, noise, settings, with_maps=place < settings.maps))
        report(place + 1, len(encoded))
    return Sensitivity(
        model=name,
        fusion=model.config.world_fusion,
        fill=settings.fill,
        own_answers=settings.own_answers or not any(_is_answered(one) for one in shown),
        left_out=len(examples) - len(shown),
        seed=settings.seed,
        examples=measured,
    )


def _answered(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    examples: Sequence[Example],
    settings: SensitivitySettings,
) -> list[Example]:
    """Each with an answer at its end: the given one or the model's own."""
    found = []
    for example in examples:
        given = _is_answered(example)
        if given and not settings.own_answers:
            found.append(example)
            continue
        turns = example.messages[:-1] if given else example.messages
        text = own_answer(model, processor, replace(example, messages=turns), settings.max_new_tokens)
        found.append(replace(example, messages=[*turns, {"role": "assistant", "content": text}]))
    return found


def _is_answered(example: Example) -> bool:
    return example.messages[-1]["role"] == "assistant"


def _measure(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    example: Example,
    other: Features | None,
    noise: Features,
    settings: SensitivitySettings,
    *,
    with_maps: bool,
) -> Measured:
    features = example.world_features or ()
    prompt = make_prompt(model, processor, example, world="on")

    def total(changed: Features) -> float:
        return float(log_probabilities(model, prompt, changed).double().sum())

    off = make_prompt(model, processor, example, world="off")
    after = {
        "unchanged": total(tuple(item.clone() for item in features)),
        "removed": float(log_probabilities(model, off, None).double().sum()),
        "shuffled": total(tuple(changes.shuffled(item) for item in features)),
        **({} if other is None else {"other-item": total(other)}),
        "noise": total(noise),
    }
    before = total(features)
    mass, shares = attention_mass(model, prompt, features)
    _check_mass(mass)
    return Measured(
        key=example.key,
        group=example.group or example.key,
        question=_text(example.messages[-2]),
        answer=_text(example.messages[-1]),
        tokens=len(prompt.tokens),
        log_probability=before,
        changes={name: value - before for name, value in after.items()},
        maps=_maps(model, processor, example, prompt, before, settings) if with_maps else (),
        attention=mass.tolist(),
        shares=shares.tolist(),
    )


def _maps(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    example: Example,
    prompt: Prompt,
    before: float,
    settings: SensitivitySettings,
) -> list[Map]:
    """Of every item: each region of it is taken away in turn, and nothing else."""
    features, found = example.world_features or (), []
    media = list(media_of_chat(example.messages))
    for item, (kind, value) in enumerate(media):
        rows, columns = features[item].shape[1:3]
        drops = np.zeros((min(settings.cells, rows), min(settings.cells, columns)))
        for row, column, down, across in changes.regions(rows, columns, settings.cells):
            changed = list(features)
            changed[item] = changes.without_region(features[item], down, across, settings.fill)
            drops[row, column] = before - float(log_probabilities(model, prompt, tuple(changed)).double().sum())
        source = Medium("", kind, value).source(processor.world_num_frames)
        found.append(Map(item=item, drops=drops.tolist(), picture=seen(source, processor.world_spec)))
    return found


def seen(source: object, spec: EncoderSpec) -> Image.Image:
    """The last frame as the encoder gets it: in its shape, its colours put back."""
    pixels = preprocess(load_source(source), spec)[-1]
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (spec.pixel_mean, spec.pixel_std))
    values = ((pixels * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _check_mass(mass: Tensor) -> None:
    """Weights are rounded to the model's number type, so each layer adds up to 1 within that."""
    error = float((mass.sum(-1) - 1).abs().max())
    if not error < 0.02:
        raise RuntimeError(f"attention adds up to 1 within {error}, not within 0.02: it was not read as it is.")


def _text(message: dict) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(block["text"] if block["type"] == "text" else f"[{block['type']}]" for block in content)
