"""Examples to a batch. Only the assistant's answers and their end-of-turn carry loss; the chat template says where."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from theworld_fusion import TheWorldProcessor
from theworld_tokens import IGNORE_INDEX
from theworld_train.data.conversation import check_chat, without_media
from theworld_train.data.example import Example, cached_features
from theworld_train.data.lazy import shown_chat

Span = tuple[int, int]
"""First character and the one after the last."""


class Collator:
    """Conversations to padded ``input_ids``, ``labels`` and pixels, with the world branch on or off."""

    def __init__(self, processor: TheWorldProcessor, *, world: Literal["on", "off"] = "on") -> None:
        self.processor = processor
        self.world: Literal["on", "off"] = world

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """A batch that the model's forward takes as it is, padded on the right.

        Raises:
            ValueError: an example has no answer, is no chat to learn from (``check_chat``), or the template does not
                render a conversation turn by turn.
        """
        for example in examples:
            check_chat(example.messages)
        chats = [self.processor.load_media(shown_chat(example, self.world)) for example in examples]
        apply: Any = self.processor.apply_chat_template  # annotated upstream as giving text only
        inputs = apply(
            chats,
            tokenize=True,
            return_dict=True,
            processor_kwargs={
                "world": self.world,
                "world_features": cached_features(examples) if self.world == "on" else None,
                "image_features": cached_features(examples, "image_features"),
                "padding": True,
                "padding_side": "right",
                "return_offsets_mapping": True,
                "return_text_replacement_offsets": True,
                "return_tensors": "pt",
            },
        )
        offsets = np.asarray(inputs.pop("offset_mapping"))  # [b, l, 2]: characters of the expanded text
        replacements = inputs.pop("text_replacement_offsets")
        lengths = inputs["attention_mask"].sum(1).tolist()
        labels = [
            self._labels(ids, chat, replacements[row], offsets[row, : lengths[row]])
            for row, (ids, chat) in enumerate(zip(inputs["input_ids"], chats, strict=True))
        ]
        return {**inputs, "labels": torch.stack(labels)}

    def again(self, example: Example, sample: dict[str, Any], frames: Sequence[int]) -> dict[str, Any] | None:
        """The batch of this one example, with the pixels of another's, which shows the same; they are not read again.

        Args:
            sample: the other's batch.
            frames: of each picture or clip.

        Returns:
            ``None`` where the pixels are not those of so many tokens: a clip is shorter, or a picture was cropped.

        Raises:
            ValueError: as for any example.
        """
        check_chat(example.messages)
        chat = without_media(example.messages)
        text: Any = self.processor.apply_chat_template(chat)  # pyright: ignore[reportArgumentType]
        inputs = self.processor.without_pixels(text, frames, world=self.world)
        ids = torch.tensor([inputs["input_ids"]])
        for token_id in (self.processor.tokenizer.image_token_id, self.processor.world_token_id):
            if (ids == token_id).sum() != (sample["input_ids"] == token_id).sum():
                return None
        labels = self._labels(ids[0], chat, inputs["text_replacement_offsets"], np.asarray(inputs["offset_mapping"]))
        return {
            **sample,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.tensor([inputs["token_type_ids"]]),
            "labels": labels[None],
        }

    def _labels(self, ids: Tensor, chat: list[dict[str, Any]], replacements: Any, offsets: np.ndarray) -> Tensor:
        spans = [_expand(span, replacements) for span in answer_spans(self.processor, chat)]
        return labels_of(ids, spans, offsets)


class CachingCollator:
    """A collator that renders every example once, for data that is shown many times, in one process, from memory."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator
        # By identity; the example is kept too, for while it lives no other has its id.
        self._rows: dict[int, tuple[Example, dict[str, Any]]] = {}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The batch that the collator itself would make."""
        return join([self._row(example) for example in examples], self.collator.processor.tokenizer.pad_token_id)

    def _row(self, example: Example) -> dict[str, Any]:
        if id(example) not in self._rows:
            self._rows[id(example)] = example, self.collator([example])
        return self._rows[id(example)][1]


def join(batches: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Collated batches as one, padded on the right."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    padding = {
        "input_ids": pad_token_id,
        "attention_mask": 0,
        "token_type_ids": 0,
        "labels": IGNORE_INDEX,
        "position_ids": 0,
        "visible_until": longest,  # padding sees itself: attention that sees nothing is not a number
    }
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for batch in batches for key in batch):
        parts = [batch[key] for batch in batches if key in batch]
        if key in padding:
            parts = [nn.functional.pad(part, (0, longest - part.shape[1]), value=padding[key]) for part in parts]
        items = [item for part in parts for item in part]
        joined[key] = torch.stack(items) if len({item.shape for item in items}) == 1 else items
    return joined


def labels_of(ids: Int[Tensor, " l"], spans: Sequence[Span], offsets: np.ndarray) -> Int[Tensor, " l"]:
    """The ids of the answers' tokens at their places, elsewhere ``IGNORE_INDEX``; see ``tokens_in``."""
    values = ids.numpy()
    labels = np.full_like(values, IGNORE_INDEX)
    for first, last in tokens_in(spans, offsets):
        labels[first:last] = values[first:last]
    return torch.from_numpy(labels)


def answer_spans(processor: TheWorldProcessor, messages: Sequence[dict[str, Any]]) -> list[Span]:
    """Where the assistant's answers stand in the rendered chat, each with its end-of-turn marker.

    Raises:
        ValueError: there is no answer, or the template rewrites earlier turns when one is added.
    """

    def render(turns: Sequence[dict[str, Any]], prompt: bool = False) -> str:
        return processor.apply_chat_template(turns, add_generation_prompt=prompt)  # pyright: ignore[reportArgumentType]

    whole, spans = render(messages), []
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            before, through = render(messages[:turn], prompt=True), render(messages[: turn + 1]).rstrip()
            if not (whole.startswith(through) and through.startswith(before)):
                raise ValueError(
                    f"the chat template does not keep turn {turn} as it was when more follows, so its answer cannot "
                    "be found. Use a template that renders turn by turn."
                )
            spans.append((len(before), len(through)))
    if not spans:
        raise ValueError("a conversation has no assistant turn to learn from. Add the answer.")
    return spans


def _expand(span: Span, replacements: Sequence[dict[str, Any]]) -> Span:
    """The span's place after placeholders before it grew; answers hold none themselves."""
    grown = sum(
        (entry["new_span"][1] - entry["new_span"][0]) - (entry["span"][1] - entry["span"][0])
        for entry in replacements
        if entry["span"][1] <= span[0]
    )
    return span[0] + grown, span[1] + grown


def tokens_in(spans: Sequence[Span], offsets: np.ndarray) -> list[Span]:
    """First token of each span of characters, and the one after its last.

    Args:
        offsets: of a row's tokens without padding, ``[l, 2]``: they ascend, so each edge is found by bisection.

    Raises:
        ValueError: a token reaches over a span's edge.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    first = np.searchsorted(ends, [start for start, _ in spans], side="right")
    last = np.searchsorted(starts, [end for _, end in spans], side="left")
    for (start, end), a, b in zip(spans, first, last, strict=True):
        if a >= b or starts[a] < start or ends[b - 1] > end:
            raise ValueError("a token joins the prompt and the answer. Strip white space from the answer's ends.")
    return [(int(a), int(b)) for a, b in zip(first, last, strict=True)]
