"""What a model answers: freely, by plain greedy ``generate()``, or by the likeliest of given choices."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from torch.distributed.fsdp import FSDPModule

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.data import Example
from theworld_train.data.example import cached_features
from theworld_train.data.lazy import load_chat, shown_chat
from theworld_train.evaluate.asker import Asker
from theworld_train.evaluate.prompts import choice_tokens, make_prompt


@torch.no_grad()
def answers(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    examples: Sequence[Example],
    *,
    world: Literal["on", "off"] = "on",
    batch_size: int = 64,
    max_new_tokens: int = 8,
) -> Iterator[str]:
    """The model's answer to each example, in order, stripped of special tokens and white space.

    Raises:
        ValueError: the world is on and an example's prompt holds no world tokens.
    """
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        inputs = send_to_device(dict(_prompts(processor, chunk, world)), model.device)
        _check_world(inputs["input_ids"], processor, world)
        ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **inputs, do_sample=False, max_new_tokens=max_new_tokens, synced_gpus=isinstance(model, FSDPModule)
        )
        for row in ids[:, inputs["input_ids"].shape[1] :]:
            yield processor.tokenizer.decode(row, skip_special_tokens=True).strip()


@torch.no_grad()
def choose(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    examples: Sequence[Example],
    choices: Sequence[Sequence[str]],
    *,
    world: Literal["on", "off"] = "on",
    batch_size: int = 24,
) -> Iterator[str]:
    """The likeliest of each example's choices: the one whose tokens, with their end-of-turn, have the highest sum of
    log-probabilities after the prompt. It is never none of them, whatever the world input, so guessing gives chance.

    Raises:
        ValueError: the world is on and an example's prompt holds no world tokens.
        WorldIgnored: it holds them, and they do not reach the language model.
    """
    asker = Asker(model, processor, method="likelihood")
    for start in range(0, len(examples), batch_size):
        prompts, options = [], []
        for row in range(start, min(start + batch_size, len(examples))):
            turns = examples[row].messages[:-1]
            chat = processor.load_media(load_chat(turns))
            prompts.append(make_prompt(processor, chat, world=world, world_features=examples[row].world_features))
            _check_world(prompts[-1].input_ids[None], processor, world)
            tokens = choice_tokens(processor, turns, choices[row])
            options.append(dict(zip(choices[row], tokens, strict=True)))
        for reply in asker.ask(prompts, options):
            yield reply.text


def _check_world(input_ids: torch.Tensor, processor: TheWorldProcessor, world: str) -> None:
    if world == "on" and not (input_ids == processor.world_token_id).any(dim=1).all():
        raise ValueError("the world is on, but a prompt has no world tokens. Give every example a picture or clip.")


def _prompts(processor: TheWorldProcessor, examples: Sequence[Example], world: Literal["on", "off"]) -> dict[str, Any]:
    apply: Any = processor.apply_chat_template  # annotated upstream as giving text only
    return apply(
        [shown_chat(example, world)[:-1] for example in examples],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "world": world,
            "world_features": cached_features(examples) if world == "on" else None,
            "image_features": cached_features(examples, "image_features"),
            "padding": True,
        },
    )
