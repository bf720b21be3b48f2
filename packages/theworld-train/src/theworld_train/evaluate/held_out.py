"""During training: the loss on held-out examples, and what the model answers to some of them."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device

from theworld_fusion import TheWorldProcessor
from theworld_tokens import IGNORE_INDEX
from theworld_train.data import Collator, Example
from theworld_train.evaluate.answers import answers
from theworld_train.media import media_of_chat


class HeldOut:
    """Examples that training never sees, the same on every process: sharded models need all of them to take part."""

    def __init__(
        self, examples: Sequence[Example], processor: TheWorldProcessor, *, world: Literal["on", "off"], batch_size: int
    ) -> None:
        self.examples, self.processor = examples, processor
        self.world: Literal["on", "off"] = world
        self.collator = Collator(processor, world=world)
        self.batch_size = batch_size

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        """Mean over all supervised tokens, in nats; no logits are made but theirs."""
        total, tokens = 0.0, 0
        for start in range(0, len(self.examples), self.batch_size):
            batch = send_to_device(self.collator(self.examples[start : start + self.batch_size]), model.device)
            count = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            total += float(model(**batch, skip_logits=True).loss) * count
            tokens += count
        return total / max(tokens, 1)

    def samples(self, model: Any, number: int, max_new_tokens: int) -> list[dict[str, str]]:
        """Question, wanted and given answer of the first ``number`` examples that show something."""
        shown = [example for example in self.examples if any(media_of_chat(example.messages))][:number]
        given = answers(
            model, self.processor, shown, world=self.world, batch_size=self.batch_size, max_new_tokens=max_new_tokens
        )
        return [
            {"question": _text(example.messages[-2]), "wanted": _text(example.messages[-1]), "answer": text}
            for example, text in zip(shown, given, strict=True)
        ]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return " ".join(block["text"] if block["type"] == "text" else f"[{block['type']}]" for block in blocks)
