"""The log-probability of a given answer, with any world features behind the same prompt.

Every prompt is asked alone: a batch rounds in its own way, and a change that changes nothing has to give exactly zero.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from torch import Tensor

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.data import Collator, Example
from theworld_train.data.lazy import load_chat

Features = tuple[Tensor, ...]
"""Of each item of a conversation, ``[t', r, s, c]``."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation as the model takes it, its pictures encoded, without world features.

    Attributes:
        inputs: of ``forward``.
        places: whose outputs foretell the answers' tokens, their end-of-turn included.
        tokens: those.
    """

    inputs: dict[str, Any]
    places: Int[Tensor, " n"]
    tokens: Int[Tensor, " n"]


@torch.no_grad()
def make_prompt(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    example: Example,
    *,
    world: Literal["on", "off"],
) -> Prompt:
    """Of an example with its world features; with the world off it has no world tokens.

    Raises:
        ValueError: the example has no answer, or no features where the world is on.
    """
    if world == "on" and not example.world_features:
        raise ValueError("an example has no world features. Compute them first with with_world_features.")
    collated = Collator(processor, world=world)([example])
    labels = collated.pop("labels")[0]
    collated.pop("world_features", None)
    inputs: Any = send_to_device(collated, model.device)
    pixels = inputs.pop("pixel_values", None)
    encode: Any = model.model.get_image_features  # annotated upstream without its keywords
    if pixels is not None:  # once for all changes of the world
        inputs["mm_encoder_outputs"] = {"image": encode(pixels, return_dict=True)}
    places = (labels[1:] >= 0).nonzero()[:, 0]
    return Prompt(inputs=inputs, places=places.to(model.device), tokens=labels[1:][places].to(model.device))


@torch.no_grad()
def log_probabilities(
    model: TheWorldForConditionalGeneration, prompt: Prompt, features: Features | None
) -> Float[Tensor, " n"]:
    """Of each token of the answers, in nats, on the CPU; ``features`` are ``None`` where the world is off."""
    world = {} if features is None else {"world_features": list(features)}
    logits = model(**prompt.inputs, **world, logits_to_keep=prompt.places).logits[0].float()
    return logits.log_softmax(-1).gather(-1, prompt.tokens[:, None])[:, 0].cpu()


@torch.no_grad()
def own_answer(
    model: TheWorldForConditionalGeneration, processor: TheWorldProcessor, example: Example, max_new_tokens: int
) -> str:
    """What the model answers, greedily, to a conversation that ends with the user's turn."""
    apply: Any = processor.apply_chat_template  # annotated upstream as giving text only
    inputs = apply(
        [load_chat(example.messages)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"world_features": list(example.world_features or ())},
    )
    inputs = send_to_device(dict(inputs), model.device)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # pyright: ignore[reportAttributeAccessIssue]
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
