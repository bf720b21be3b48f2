"""World features computed once, for encoders that stay frozen: training and evaluation then never run the encoder."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from theworld_encoders import Encoder, FeatureCache, preprocess
from theworld_encoders.source import load_source
from theworld_fusion import TheWorldProcessor
from theworld_train.data.example import Example
from theworld_train.data.lazy import sources_of


def with_world_features(
    examples: Sequence[Example],
    encoder: Encoder,
    processor: TheWorldProcessor,
    *,
    folder: str | Path | None = None,
    batch_size: int = 16,
    threads: int = 2,
) -> Iterator[Example]:
    """The same examples, in order, each with its items' features; they equal those of the live encoder.

    Args:
        folder: of a ``FeatureCache``, which gives what it has and keeps what it has not. Then each item is encoded
            alone, and its features are the live encoder's for that item bit by bit; a batch rounds in its own way.
        batch_size: items that are encoded together.
        threads: batches that are encoded at a time; encoders may be shared by threads.

    Raises:
        ValueError: the processor makes its pixels for another encoder.
    """
    wanted, found = (processor.world_encoder, processor.world_frame_size), (encoder.spec.name, encoder.spec.frame_size)
    if wanted != found:
        raise ValueError(f"the processor is for {wanted}, the encoder is {found}. Use those of one model.")
    cache = None if folder is None else FeatureCache(folder, encoder)
    like = next(encoder.parameters(), torch.zeros(()))  # some controls have no parameters

    def encode(chunk: Sequence[Example]) -> list[Example]:
        rows = [sources_of(example.messages, processor.world_num_frames) for example in chunk]
        sources = [source for row in rows for source in row]
        if cache is not None:
            features = iter(cache.features(sources))
        else:
            pixels = [preprocess(load_source(source), encoder.spec).to(like) for source in sources]
            with torch.no_grad():
                features = iter(encoder.encode_items(pixels))
        return [
            replace(example, world_features=tuple(next(features) for _ in row))
            for example, row in zip(chunk, rows, strict=True)
        ]

    chunks = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    with nullcontext() if cache is None else cache, ThreadPoolExecutor(threads) as pool:
        for done in pool.map(encode, chunks):
            yield from done
