"""What a model sees of a question: tokens and pixels, made once, however many answers are compared.

Shapes: ``b`` row, ``l`` sequence, ``n`` pictures, ``m`` items of the world branch, ``k`` tokens of one, ``d`` width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld_fusion import TheWorldProcessor
from theworld_train.data.collator import answer_spans, tokens_in
from theworld_train.media import media_of_chat


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question, ready for the model.

    Attributes:
        input_ids, token_type_ids: ``[l]``, without padding.
        pixel_values: of its pictures, ``[n, 3, h, w]``.
        pixel_values_world, world_features: one of the two for each of its items, where the world is on.
    """

    input_ids: Int[Tensor, " l"]
    token_type_ids: Int[Tensor, " l"]
    pixel_values: Float[Tensor, "n 3 h w"] | None = None
    pixel_values_world: tuple[Tensor, ...] = ()
    world_features: tuple[Tensor, ...] = ()

    @property
    def images(self) -> int:
        return 0 if self.pixel_values is None else len(self.pixel_values)

    @property
    def items(self) -> int:
        return len(self.pixel_values_world) + len(self.world_features)

    def with_world_pixels(self, pixels: Sequence[Tensor]) -> "Prompt":
        """The same question, with other pixels for the world encoder.

        Raises:
            ValueError: they would make another number of world tokens.
        """
        own, other = [[tuple(item.shape) for item in items] for items in (self.pixel_values_world, pixels)]
        if own != other:
            raise ValueError(f"the other item's pixels have shapes {other}, the item's own {own}: no swap is possible.")
        return replace(self, pixel_values_world=tuple(pixels))


def make_prompt(
    processor: TheWorldProcessor,
    chat: Sequence[dict[str, Any]],
    *,
    world: Literal["on", "off"],
    world_features: Sequence[Tensor] | None = None,
) -> Prompt:
    """The prompt of a chat that ends with the user's turn.

    Args:
        chat: with its pictures and clips loaded.
        world_features: of its items, where they were computed before.

    Raises:
        ValueError: as the processor.
    """
    apply: Any = processor.apply_chat_template  # annotated upstream as giving text only
    given = None if world == "off" or world_features is None else list(world_features)
    inputs = apply(
        [list(chat)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"world": world, "world_features": given},
    )
    ids = inputs["input_ids"][0]
    types = inputs.get("token_type_ids")
    return Prompt(
        input_ids=ids,
        token_type_ids=torch.zeros_like(ids) if types is None else types[0],
        pixel_values=inputs.get("pixel_values"),
        pixel_values_world=tuple(inputs.get("pixel_values_world", ())),
        world_features=tuple(inputs.get("world_features", ())),
    )


def choice_tokens(
    processor: TheWorldProcessor, messages: Sequence[dict[str, Any]], choices: Sequence[str]
) -> list[Int[Tensor, " _"]]:
    """Each choice's tokens with its end-of-turn, as the chat template writes the assistant's turn. No medium is read.

    Placeholders are special tokens, which nothing merges with: a picture's size does not change the answer's tokens.

    Raises:
        ValueError: a token joins the prompt and a choice, or the template does not render turn by turn.
    """
    bare = [{**message, "content": _without_media(message["content"])} for message in messages]
    apply: Any = processor.apply_chat_template
    found = []
    for choice in choices:
        chat = [*bare, {"role": "assistant", "content": [{"type": "text", "text": choice}]}]
        encoded: Any = processor.tokenizer(
            apply(chat, tokenize=False), add_special_tokens=False, return_offsets_mapping=True, return_tensors="np"
        )
        [span] = answer_spans(processor, chat)[-1:]
        [(first, last)] = tokens_in([span], encoded["offset_mapping"][0])
        found.append(torch.from_numpy(encoded["input_ids"][0, first:last].copy()))
    return found


def readable(processor: TheWorldProcessor, prompt: Prompt) -> str:
    """The prompt as text, special tokens included; a run of placeholders is written once, with its length."""
    text = processor.tokenizer.decode(prompt.input_ids, skip_special_tokens=False)
    soft = "|".join(re.escape(token) for token in _soft_tokens(processor))
    return re.sub(rf"({soft})\1+", lambda run: f"{run[1]}*{len(run[0]) // len(run[1])}", text)


def stack(
    prompts: Sequence[Prompt], answers: Sequence[Int[Tensor, " _"]] | None, pad_token_id: int, device: torch.device
) -> dict[str, Int[Tensor, "b l"]]:
    """Rows of one length, padded on the left; each with an answer behind it where there are ``answers``."""
    empty = torch.zeros(0, dtype=torch.long)
    ends = [empty] * len(prompts) if answers is None else answers
    columns = {
        "input_ids": [torch.cat([prompt.input_ids, end]) for prompt, end in zip(prompts, ends, strict=True)],
        "token_type_ids": [
            torch.cat([prompt.token_type_ids, torch.zeros_like(end)]) for prompt, end in zip(prompts, ends, strict=True)
        ],
    }
    columns["attention_mask"] = [torch.ones_like(ids) for ids in columns["input_ids"]]
    longest = max(len(ids) for ids in columns["input_ids"])
    padding = {"input_ids": pad_token_id, "token_type_ids": 0, "attention_mask": 0}
    return {
        name: torch.stack([nn.functional.pad(row, (longest - len(row), 0), value=padding[name]) for row in rows]).to(
            device
        )
        for name, rows in columns.items()
    }


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """What the two branches make of a batch's prompts, once.

    Attributes:
        image: tokens of each picture, ``[n, k, d]``.
        world: tokens of each item, ``[k, d]``; ``None`` where the world is off.
        images, items: how many of them each prompt has.
    """

    image: Float[Tensor, "n k d"] | None
    world: list[Tensor] | None
    images: list[int]
    items: list[int]

    def for_rows(self, rows: Sequence[int]) -> dict[str, BaseModelOutputWithPooling]:
        """``mm_encoder_outputs`` of a batch whose rows are the prompts of these numbers."""
        encoded = {}
        if self.image is not None:
            places = torch.tensor(_places(self.images, rows), device=self.image.device)
            encoded["image"] = BaseModelOutputWithPooling(pooler_output=self.image[places])
        if self.world is not None:
            tokens: Any = self.world_of(rows)
            encoded["world"] = BaseModelOutputWithPooling(pooler_output=tokens)
        return encoded

    def world_of(self, rows: Sequence[int]) -> list[Tensor]:
        """World tokens of each item of those prompts, in the rows' order."""
        return [] if self.world is None else [self.world[place] for place in _places(self.items, rows)]


def encode(model: Any, prompts: Sequence[Prompt]) -> Encodings:
    """Ask both encoders about a batch; prompts without pictures or items ask for nothing.

    Args:
        model: TheWorld, or where no prompt has world input the base VLM.
    """
    pictures = [prompt.pixel_values for prompt in prompts if prompt.pixel_values is not None]
    image = None
    if pictures:
        pixels = torch.cat(pictures).to(model.device)
        image = model.model.get_image_features(pixels, return_dict=True).pooler_output
    pixels_world = [item for prompt in prompts for item in prompt.pixel_values_world]
    features = [item for prompt in prompts for item in prompt.world_features]
    world = None
    if pixels_world or features:
        world = model.get_world_features(pixels_world or None, features or None).pooler_output
    return Encodings(
        image=image,
        world=world,
        images=[prompt.images for prompt in prompts],
        items=[prompt.items for prompt in prompts],
    )


def signature(messages: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """What decides how many world tokens a chat has, known without reading a medium: kinds, and lengths of clips."""
    return tuple(
        (kind, len(value) if isinstance(value, Sequence) and not isinstance(value, str) else 0)
        for kind, value in media_of_chat(messages)
    )


def _places(counts: Sequence[int], rows: Sequence[int]) -> list[int]:
    starts = [sum(counts[:row]) for row in range(len(counts))]
    return [starts[row] + place for row in rows for place in range(counts[row])]


def _soft_tokens(processor: TheWorldProcessor) -> list[str]:
    ids = [processor.tokenizer.image_token_id, processor.world_token_id]  # pyright: ignore[reportAttributeAccessIssue]
    return [str(processor.tokenizer.convert_ids_to_tokens(one)) for one in ids]


def _without_media(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "image"} if block["type"] in ("image", "video") else block for block in content]
