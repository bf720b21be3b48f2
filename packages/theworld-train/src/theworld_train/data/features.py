"""World features computed once, for encoders that stay frozen: training and evaluation then never run the encoder."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from theworld_encoders import Encoder, preprocess
from theworld_fusion import TheWorldProcessor
from theworld_train.data.example import Example


def with_world_features(
    examples: Sequence[Example],
    encoder: Encoder,
    processor: TheWorldProcessor,
    *,
    batch_size: int = 16,
    threads: int = 2,
) -> Iterator[Example]:
    """The same examples, in order, each with its items' features; they equal those of the live encoder.

    Args:
        batch_size: items that are encoded together.
        threads: batches that are encoded at a time; encoders may be shared by threads.
    """
    like = next(encoder.parameters(), torch.zeros(()))  # some controls have no parameters

    def encode(chunk: Sequence[Example]) -> list[Example]:
        items = [_items(processor.load_media(example.messages)) for example in chunk]
        pixels = [preprocess(item, processor.world_spec).to(like) for row in items for item in row]
        with torch.no_grad():
            features = iter(encoder.encode_items(pixels))
        return [
            replace(example, world_features=tuple(next(features) for _ in row))
            for example, row in zip(chunk, items, strict=True)
        ]

    chunks = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    with ThreadPoolExecutor(threads) as pool:
        for done in pool.map(encode, chunks):
            yield from done


def _items(messages: Sequence[dict[str, Any]]) -> list[Any]:
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [block["image"] for block in blocks if block["type"] == "image"]
