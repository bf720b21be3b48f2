"""What a model answers: plain greedy ``generate()`` on the conversation without its last answer."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.data import Example


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
        inputs = _prompts(processor, chunk, world)
        if world == "on" and not (inputs["input_ids"] == processor.world_token_id).any(dim=1).all():
            raise ValueError("the world is on, but a prompt has no world tokens. Give every example a picture or clip.")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # pyright: ignore[reportAttributeAccessIssue]
        for row in ids[:, inputs["input_ids"].shape[1] :]:
            yield processor.tokenizer.decode(row, skip_special_tokens=True).strip()


def _prompts(processor: TheWorldProcessor, examples: Sequence[Example], world: str) -> dict[str, Any]:
    features = [item for example in examples for item in example.world_features or ()]
    apply: Any = processor.apply_chat_template  # annotated upstream as giving text only
    return apply(
        [example.messages[:-1] for example in examples],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "world": world,
            "world_features": features if features and world == "on" else None,
            "padding": True,
        },
    )
